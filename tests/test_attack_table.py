"""What every attack owes its caller, for all of them in one table: a new attack adds a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import Defended, InputError, attacks
from audiopure.attacks import Attack, AttackResult, DiffAttack, Qin, Transfer, score
from audiopure.attacks.catalogue import ATTACKS, build_attack
from audiopure.diffusion.denoiser import GaussianDenoiser
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

LENGTH, CLASSES = 300, 4


class Correlator(nn.Module):
    """Four classes told apart by the correlation with four fixed noises."""

    def __init__(self, seed: int = 5):
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(seed).normal((CLASSES, LENGTH), draw=0) / 5)

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform @ self.weight.to(waveform.dtype)[:, : waveform.shape[1]].T


class Coin(nn.Module):
    """Behind a purifier: hears class 1 with probability 0.7 over its noise, whatever the clip is.

    The noise turns the phase by many turns. What gradient there is leads nowhere.
    """

    def forward(self, waveform: Tensor) -> Tensor:
        logits = torch.zeros(len(waveform), CLASSES, dtype=waveform.dtype) - torch.arange(CLASSES)
        logits[:, 1] = (3000 * waveform.sum(1)).cos() - math.cos(0.7 * math.pi)
        return logits


def behind_a_purifier(model: nn.Module) -> Defended:
    denoiser = GaussianDenoiser(torch.zeros(1), torch.full((1,), 0.01))
    return audiopure.defend(model, Purifier(denoiser, n_star=3))


SURROGATE = Correlator(seed=6)
# name in the catalogue, and settings that take an instant
TABLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "pgd linf": ("pgd", {"steps": 3, "eot": 2, "restarts": 2, "leave": 3}),
    "pgd l2": ("pgd", {"norm": "l2", "steps": 3, "momentum": 0.5, "loss": "margin"}),
    "pgd from square": ("pgd", {"steps": 2, "start": attacks.Square(queries=4, eot=2)}),
    "apgd linf": ("apgd", {"steps": 5, "eot": 2, "loss": "dlr", "targets": 2}),
    "apgd l2": ("apgd", {"norm": "l2", "steps": 5}),
    "autoattack linf": ("autoattack", {"steps": 4, "eot": 2, "selection": 3}),
    "autoattack l2": ("autoattack", {"norm": "l2", "steps": 4, "eot": 2, "selection": 3}),
    "cw l2": ("cw", {"steps": 5, "searches": 3, "eot": 2}),
    "cw free": ("cw", {"norm": "free", "steps": 5, "searches": 3, "eot": 2, "selection": 4}),
    "diffattack linf": ("diffattack", {"steps": 3, "eot": 2}),
    "diffattack l2": ("diffattack", {"norm": "l2", "steps": 3, "eot": 2}),
    "square linf": ("square", {"queries": 8, "eot": 2}),
    "square l2": ("square", {"norm": "l2", "queries": 8, "eot": 2, "restarts": 2}),
    "nes linf": ("nes", {"steps": 3, "samples": 6, "selection": 3, "leave": 3}),
    "nes l2": ("nes", {"norm": "l2", "steps": 3, "samples": 6, "selection": 3}),
    "spsa linf": ("spsa", {"steps": 3, "samples": 6, "selection": 3}),
    "spsa l2": ("spsa", {"norm": "l2", "steps": 3, "samples": 6, "selection": 3}),
    "fakebob": ("fakebob", {"steps": 4, "samples": 6}),
    "fakebob-released": ("fakebob-released", {"steps": 4, "samples": 6}),
    "siren": ("siren", {"epochs": 2, "iterations": 3, "particles": 4}),
    "kenansville fft": ("kenansville", {"iterations": 4}),
    "kenansville ssa": ("kenansville", {"method": "ssa", "iterations": 2}),
    "kenansville snr": ("kenansville", {"snr": 15.0}),
    "qin": ("qin", {"succeed": 4, "hide": 4, "shrink_every": 2, "eot": 2}),
    "low-frequency": ("low-frequency", {"steps": 4, "eot": 2, "hum": 0.001, "hinge": 1e-4}),
    "universal linf": ("universal", {"steps": 4, "eot": 2, "shift": 5}),
    "universal l2": ("universal", {"norm": "l2", "steps": 4, "eot": 2}),
    "transfer linf": ("transfer", {"steps": 3, "surrogate": SURROGATE}),
    "transfer l2": ("transfer", {"norm": "l2", "steps": 3, "surrogate": SURROGATE}),
    "random linf": ("random", {}),
    "random l2": ("random", {"norm": "l2", "passes": 2}),
}
# what returns the clean clip by design, or where nothing weaker breaks the model
UNCHANGED = {"fakebob-released", "kenansville fft", "kenansville ssa"}
each = pytest.mark.parametrize("row", TABLE)


def built(row: str, **others: Any) -> Attack:
    name, settings = TABLE[row]
    return build_attack(name, **settings, **others)


def victims(attack: Attack) -> list[nn.Module]:
    """A fixed model and a randomised one; those that steer by a purifier know only the latter."""
    fixed, defended = Correlator(), behind_a_purifier(Correlator())
    return [defended] if isinstance(attack, DiffAttack) else [fixed, defended]


def clips(batch: int = 3) -> Tensor:
    """Clips in 16-bit samples, one of them with samples at both ends of full scale."""
    x = 0.2 * SeededNoise(1).normal((batch, LENGTH), draw=0)
    x[0, :40] = torch.tensor([1.0, -1.0]).repeat(20)
    return (x * 32768).round().clamp(-32768, 32767) / 32768


def answers(model: nn.Module, x: Tensor) -> Tensor:
    """What it hears, so that there is something to break."""
    return (model.model if isinstance(model, Defended) else model)(x).argmax(1)


def distance(attack: Attack, x: Tensor, clean: Tensor) -> Tensor:
    change = x.double() - clean.double()
    return change.norm(dim=1) if attack.norm == "l2" else change.abs().amax(1)


def check_result(result: AttackResult, attack: Attack, clean: Tensor) -> None:
    batch = len(clean)
    assert result.adversarial.shape == clean.shape and result.adversarial.dtype == clean.dtype
    assert result.loss.shape == result.queries.shape == (batch,)
    assert result.history.shape == result.survived.shape and result.history.shape[2] == batch
    assert result.history.isfinite().all() and result.loss.isfinite().all()
    assert ((result.survived >= 0) & (result.survived <= 1)).all()
    assert not result.adversarial.requires_grad
    assert (result.queries > 0).all() and int(result.queries.max()) <= sum(attack.cost)


def test_every_attack_of_the_catalogue_is_in_the_table() -> None:
    assert {name for name, _ in TABLE.values()} == set(ATTACKS)


@each
def test_the_result_is_admissible_exactly_and_replays_bit_for_bit(row: str) -> None:
    attack, clean, lengths = built(row), clips(), torch.tensor([LENGTH, 200, 100])
    for model in victims(attack):
        labels = answers(model, clean)
        untouched, state = clean.clone(), torch.get_rng_state()
        ticks: list[None] = []
        result = attack(
            model, clean, labels, noise=SeededNoise(4), lengths=lengths, progress=partial(ticks.append, None)
        )
        assert torch.equal(clean, untouched) and torch.equal(state, torch.get_rng_state())
        check_result(result, attack, clean)
        x = result.adversarial
        assert x.abs().max() <= 1
        assert (distance(attack, x, clean) <= attack.eps).all()
        assert not isinstance(attack, Qin) or float((x - clean).abs().max()) <= attack.reach
        stored = (x.double() * 32768).round().clamp(-32768, 32767) / 32768
        assert torch.equal(stored.float(), x)
        for end, one, other in zip(lengths, x, clean, strict=True):
            assert torch.equal(one[end:], other[end:])
        assert ticks
        assert row in UNCHANGED or not torch.equal(x, clean)
        torch.manual_seed(7)
        again = attack(model, clean, labels, noise=SeededNoise(4), lengths=lengths)
        for name, value in vars(result).items():
            assert torch.equal(value, vars(again)[name]), name


@each
def test_without_rounding_the_budget_holds_exactly_as_well(row: str) -> None:
    attack, clean = built(row, bits=None), clips()
    model = victims(attack)[0]
    x = attack(model, clean, answers(model, clean), noise=SeededNoise(5)).adversarial
    assert x.abs().max() <= 1 and (distance(attack, x, clean) <= attack.eps).all()


@pytest.mark.parametrize("row", [row for row in TABLE if TABLE[row][0] != "universal"])
def test_a_clip_is_attacked_alike_alone_and_in_a_batch(row: str) -> None:
    """But for the universal perturbation, which is learnt from all clips of the batch."""
    attack, clean = built(row), clips().double()
    for model in victims(attack):
        labels, noise = answers(model, clean), SeededNoise(2).for_items([20, 21, 22])
        whole = attack(model, clean, labels, noise=noise).adversarial
        some = attack(model, clean[[2, 0]], labels[[2, 0]], noise=noise.for_items([22, 20])).adversarial
        torch.testing.assert_close(some, whole[[2, 0]], rtol=0, atol=1e-9)


@each
def test_luck_breaks_no_coin(row: str) -> None:
    attack, model, clean = built(row), behind_a_purifier(Coin()), clips(24)
    labels = torch.ones(24, dtype=torch.long)
    found = attack(model, clean, labels, noise=SeededNoise(2)).adversarial
    after = score(model, found, labels, noise=SeededNoise(3), passes=60).float()
    # 1440 flips: one standard deviation is 0.012
    assert abs(float(after.mean()) - 0.7) < 0.05
    assert 0.3 < float(after.mean(1).min()) and float(after.mean(1).max()) < 1


def test_the_coin_is_one() -> None:
    labels = torch.ones(24, dtype=torch.long)
    heard = score(behind_a_purifier(Coin()), clips(24), labels, noise=SeededNoise(3), passes=60)
    assert abs(float(heard.float().mean()) - 0.7) < 0.05


@each
def test_labels_rebuild_and_costs_are_known(row: str) -> None:
    attack = built(row)
    names = {name: getattr(attacks, name) for name in attacks.__all__} | {"inf": math.inf}
    told = attack.inner if isinstance(attack, Transfer) else attack
    assert eval(repr(told), names) == told
    assert "max_rows" not in repr(told)
    assert all(0 <= part < math.inf for part in attack.cost) and sum(attack.cost) > 0
    assert attack.budget and attack.eps > 0


BAD = ["nan", "too loud", "a label too many", "no such class", "a negative class", "integers", "one axis"]


@each
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence(row: str, what: str) -> None:
    attack, clean = built(row), clips(2)
    model, labels = victims(attack)[0], torch.tensor([0, 1])
    if what == "nan":
        clean[0, 3] = torch.nan
    elif what == "too loud":
        clean[1, 5] = 1.5
    elif what == "integers":
        clean = clean.int()
    elif what == "one axis":
        clean = clean[0]
    else:
        wrong = {"a label too many": [0, 1, 2], "no such class": [0, CLASSES], "a negative class": [-1, 0]}
        labels = torch.tensor(wrong[what])
    with pytest.raises(InputError) as caught:
        attack(model, clean, labels, noise=SeededNoise(0))
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence and ". " not in sentence


def test_an_attack_on_the_purifiers_steps_says_that_it_needs_one() -> None:
    with pytest.raises(InputError, match="holds none"):
        built("diffattack linf")(Correlator(), clips(), torch.tensor([0, 1, 2]), noise=SeededNoise(0))
