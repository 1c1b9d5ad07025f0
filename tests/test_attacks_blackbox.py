"""Attacks that ask for losses only: estimates, moves, counts, and no luck."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import audiopure
from audiopure import Defended, InputError
from audiopure.attacks import score
from audiopure.attacks.ball import STEP16, ball
from audiopure.attacks.base import Attack
from audiopure.attacks.estimators import estimate
from audiopure.attacks.nes import Nes, Spsa
from audiopure.attacks.objective import Objective
from audiopure.attacks.segments import _peak, propose, share, stripes
from audiopure.attacks.square import Square
from audiopure.data import load_dataset
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

Norm = Literal["linf", "l2"]
Directions = Literal["normal", "rademacher"]
NORMS: list[tuple[Norm, float]] = [("linf", 0.01), ("l2", 0.1)]
BOTH: list[Directions] = ["normal", "rademacher"]


class Linear(nn.Module):
    def __init__(self, length: int = 64):
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(5).normal((1, length), draw=0)[0])

    def forward(self, waveform: Tensor) -> Tensor:
        value = waveform @ self.weight[: waveform.shape[1]].to(waveform.dtype)
        return torch.stack([0 * value, value], -1)


class Quadratic(Linear):
    """Margin w.x + x' diag(c) x: antithetic pairs cancel the curvature."""

    def __init__(self, length: int = 64):
        super().__init__(length)
        self.curve = SeededNoise(6).normal((1, length), draw=0, dtype=torch.float64)[0]

    def forward(self, waveform: Tensor) -> Tensor:
        logits = super().forward(waveform)
        return logits + torch.stack([0 * logits[:, 0], waveform.square() @ self.curve.to(waveform.dtype)], -1)


class Hard(Linear):
    """A model without gradients: 1000 levels."""

    def forward(self, waveform: Tensor) -> Tensor:
        return (super().forward(waveform.detach()) * 1000).round() / 1000


class Noisy(Linear):
    """A draw adds to the margin what does not depend on the clip."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        logits = super().forward(waveform)
        jitter = 5 * noise.normal((len(logits), 1), draw=0, dtype=logits.dtype)
        return torch.cat([logits[:, :1], logits[:, 1:] + jitter], 1)


class CoinFlip(nn.Module):
    """Right with probability 0.7, whatever it hears."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        coin = noise.normal((len(waveform), 1), draw=0)
        return torch.cat([0 * waveform[:, :1], coin - 0.5244], dim=1)


class Chaotic(nn.Module):
    """As `CoinFlip`, but a draw falls otherwise for each waveform: common draws tell nothing."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        z, angle = noise.normal((len(waveform), 2), draw=0), 1e6 * waveform.double().sum(1)
        coin = z[:, 0] * angle.cos() + z[:, 1] * angle.sin()
        return torch.stack([0 * coin, coin - 0.5244], 1).float()


class Shrinker(nn.Module):
    """The exact denoiser of white Gaussian data of standard deviation 0.1."""

    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return x * (0.01 / (0.01 + torch.as_tensor(sigma, dtype=x.dtype) ** 2))


def clips(batch: int = 6, length: int = 64, scale: float = 0.2) -> Tensor:
    x = scale * SeededNoise(1).normal((batch, length), draw=0)
    return (x.clamp(-1, 1) / STEP16).round().clamp(max=32767) * STEP16


def defended() -> Defended:
    return audiopure.defend(Linear(), Purifier(Shrinker(), n_star=3, schedule=NoiseSchedule.linear()))


def zeros(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.long)


def attacks(norm: Norm, eps: float, **fields: object) -> list[Attack]:
    few: dict = {"norm": norm, "eps": eps, **fields}
    return [
        Square(queries=12, eot=2, **few),
        Square(queries=12, eot=2, tones=False, **few),
        Nes(steps=3, samples=8, **few),
        Spsa(steps=3, samples=8, **few),
    ]


EVERY = [pytest.param(norm, eps, i, id=f"{norm}-{i}") for norm, eps in NORMS for i in range(4)]


# --- estimates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", BOTH)
@pytest.mark.parametrize("kind", [Linear, Quadratic])
def test_the_estimate_is_unbiased(kind: type[Linear], distribution: Directions) -> None:
    model, x, count = kind(32).double(), clips(1, 32).double(), 3000
    objective = Objective(model, zeros(count), "margin")
    slope = model.weight.detach()
    if isinstance(model, Quadratic):
        slope = slope + 2 * model.curve * x[0]
    settings_ = {"samples": 2, "sigma": 0.3, "distribution": distribution}
    found, _ = estimate(objective, x.expand(count, -1), SeededNoise(0), **settings_)
    error = (found.mean(0) - slope) / (found.std(0) / math.sqrt(count))
    assert error.abs().max() < 4.5 and error.square().mean() == pytest.approx(1, abs=0.8)


@pytest.mark.parametrize("distribution", BOTH)
def test_the_cosine_of_the_estimate_grows_with_the_root_of_its_directions(distribution: Directions) -> None:
    """The norm of a projection to K random directions of T, on noise of length sqrt(T / K)."""
    length, count = 400, 100
    model, x = Linear(length), clips(count, length)
    objective = Objective(model, zeros(count), "margin", max_rows=600)
    for samples in (8, 32, 128):
        settings_ = {"samples": samples, "sigma": 0.01, "distribution": distribution}
        gradient, _ = estimate(objective, x, SeededNoise(2), **settings_)
        cosine = torch.cosine_similarity(gradient, model.weight.detach()[None]).square().mean().sqrt()
        directions = samples / 2
        assert float(cosine) == pytest.approx(math.sqrt(directions / (directions + length)), rel=0.12)


def test_the_mean_loss_of_an_estimate() -> None:
    """Over pairs of signs the linear part cancels: sigma^2 times the trace remains, exactly."""
    model, x = Quadratic().double(), clips(2).double()
    objective = Objective(model, zeros(2), "margin")
    at = objective.value(x, SeededNoise(0), 1)
    settings_ = {"samples": 6, "sigma": 0.1, "distribution": "rademacher"}
    _, mean = estimate(objective, x, SeededNoise(0), **settings_)
    torch.testing.assert_close(mean, at + 0.01 * model.curve.sum())


def test_every_pass_of_an_estimate_draws_anew() -> None:
    """On a loss of nothing but noise of deviation s, an entry has variance s^2 / (2 K sigma^2)."""
    model, count = Noisy(), 50
    nn.init.zeros_(model.weight)
    settings_ = {"samples": 10, "sigma": 0.5, "distribution": "rademacher"}
    gradient, mean = estimate(
        Objective(model, zeros(count), "margin"), clips(count), SeededNoise(0), **settings_
    )
    # the entries of a clip are correlated: about 250 independent ones
    assert float(gradient.square().mean()) == pytest.approx(25 / (2 * 5 * 0.25), rel=0.25)
    assert float(mean.std()) == pytest.approx(5 / math.sqrt(10), rel=0.3)


@pytest.mark.parametrize("distribution", BOTH)
def test_an_estimate_depends_neither_on_the_batch_nor_on_its_cutting(distribution: Directions) -> None:
    model, x, lengths = defended(), clips(3), torch.tensor([64, 40, 64])
    seen: list[int] = []
    model.model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    whole = Objective(model, zeros(3), lengths=lengths, max_rows=64)
    settings_ = {"samples": 10, "sigma": 0.01, "distribution": distribution}
    gradient, loss = estimate(whole, x, SeededNoise(4), **settings_)
    assert sum(seen) == 30 and max(seen) <= 64
    assert not gradient[1, 40:].any() and gradient[1, :40].all()
    for row in range(3):
        index = torch.tensor([row])
        small = Objective(model, zeros(3), lengths=lengths, max_rows=2).rows(index)
        alone, own = estimate(small, x[index], SeededNoise(4).rows([row]), **settings_)
        torch.testing.assert_close(alone[0], gradient[row], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(own[0], loss[row])


# --- the moves of Square ------------------------------------------------------------------------------------


def test_the_schedule_of_square() -> None:
    """Steps of AutoAttack's table, read off its code for 10 000 queries."""
    table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2000: 32}
    table |= {2001: 64, 4000: 64, 4001: 128, 6000: 128, 6001: 256, 8000: 256, 8001: 512, 9999: 512}
    for step, divisor in table.items():
        assert share(step, 10_000, 0.8) == pytest.approx(0.8 / divisor)
    rescaled = {5: 1, 6: 2, 25: 2, 26: 4, 250: 8, 251: 16, 4000: 256, 4001: 512}
    for step, divisor in rescaled.items():
        assert share(step, 5000, 0.8) == pytest.approx(0.8 / divisor)


@pytest.mark.parametrize("tones", [True, False])
def test_a_linf_move_sets_one_segment_to_the_border(tones: bool) -> None:
    clean, lengths = torch.zeros(40, 100), torch.full((40,), 100)
    lengths[::2] = 60
    space = ball("linf", 0.25, clean, lengths)
    x = stripes(space, SeededNoise(0))
    assert torch.equal(x.abs(), 0.25 * (torch.arange(100) < lengths[:, None]))
    moved = propose(space, clean, 0.2, SeededNoise(1), tones)
    for row, length in zip(moved, lengths, strict=True):
        changed = row.nonzero()[:, 0]
        assert len(changed) == 0.2 * length and changed[-1] - changed[0] == len(changed) - 1
        assert changed[-1] < length and (row[changed].abs() == 0.25).all()
    both = (moved > 0).any(1) & (moved < 0).any(1)
    assert not both.any() if not tones else both.float().mean() > 0.5
    # where a constant segment of the sign drawn is there already, the other is proposed
    again = propose(space, moved, 0.2, SeededNoise(1), tones)
    assert (again != moved).any(1).all()
    begins = torch.stack([row.nonzero()[0, 0] for row in moved[1::2]])
    assert begins.float().std() > 15


@pytest.mark.parametrize("tones", [True, False])
def test_an_l2_move_keeps_the_energy_and_silences_a_second_segment(tones: bool) -> None:
    clean = torch.zeros(30, 200)
    space = ball("l2", 0.5, clean)
    x = stripes(space, SeededNoise(0))
    torch.testing.assert_close(x.norm(dim=1), torch.full((30,), 0.5))
    moved = propose(space, x, 0.1, SeededNoise(1), tones)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((30,), 0.5))
    assert ((moved - x).abs() > 1e-6).sum(1).le(40).all()
    silent = (moved == 0).sum(1)
    assert silent.max() == 20 and (silent == 20).float().mean() > 0.5


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_the_bump_is_a_sum_of_nested_intervals(size: int) -> None:
    expected = torch.zeros(size, dtype=torch.float64)
    centre = size // 2
    for k in range(centre + 1):
        expected[max(0, centre - k) : centre + k + 1] += 1 / (k + 1) ** 2
    at = torch.arange(20, dtype=torch.float64)[None]
    found = _peak(at, torch.tensor([[float(size)]], dtype=torch.float64))[0]
    torch.testing.assert_close(found[:size], expected)
    assert not found[size:].any()


# --- the attacks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Linear, Hard])
def test_square_finds_the_optimum_of_a_linear_model(kind: type[Linear]) -> None:
    model, x, eps = kind(32), clips(2, 32), 0.01
    best = x + eps * model.weight.detach().sign()
    result = Square(eps=eps, queries=500, bits=None)(model, x, zeros(2), noise=SeededNoise(0))
    wrong = (result.adversarial - best).abs() > 1e-6
    lost = (wrong * 2 * eps * model.weight.detach().abs()).sum(1) / (eps * model.weight.detach().abs().sum())
    assert (lost < 0.01).all()
    assert (result.history[0].diff(dim=0) >= 0).all()
    near = Square(norm="l2", eps=0.1, queries=500, bits=None)(model, x, zeros(2), noise=SeededNoise(0))
    gain = (near.adversarial - x) @ model.weight.detach() / (0.1 * model.weight.detach().norm())
    assert (gain > 0.7).all() and (gain <= 1.0001).all()


@pytest.mark.parametrize("kind", [Linear, Hard])
@pytest.mark.parametrize("attack", [Nes, Spsa])
@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_estimated_ascent_nears_the_optimum(kind: type, attack: type, norm: Norm, eps: float) -> None:
    model, x = kind(), clips(3)
    weight = model.weight.detach()
    best = eps * (weight.abs().sum() if norm == "linf" else weight.norm())
    climber = attack(norm=norm, eps=eps, steps=60, samples=32, bits=None, max_rows=96)
    found = (climber(model, x, zeros(3), noise=SeededNoise(0)).adversarial - x) @ weight / best
    assert (found > 0.9).all() and (found <= 1.0001).all()


def test_a_lucky_incumbent_does_not_stick() -> None:
    """Draws hide the change of a move a hundredfold; common to both sides, they do not decide."""
    model, x = Noisy(32), clips(3, 32)
    weight, eps = model.weight.detach(), 0.01
    attack = Square(eps=eps, queries=300, eot=1, bits=None, selection=4)
    found = attack(model, x, zeros(3), noise=SeededNoise(0))
    gain = (found.adversarial - x) @ weight / (eps * weight.abs().sum())
    assert (gain > 0.95).all()
    # the history is of draws new to each iterate: their mean is the truth, not the best that was seen
    settled = found.history[0, 100:] - (found.adversarial @ weight)
    assert abs(float(settled.mean())) < 3 * 5 / math.sqrt(600)


@pytest.mark.parametrize("model", [CoinFlip(), Chaotic()], ids=["coin", "chaotic"])
def test_luck_does_not_count_as_success(model: nn.Module) -> None:
    x, labels = clips(30), torch.ones(30, dtype=torch.long)
    clean = score(model, x, labels, noise=SeededNoise(1), passes=40).float().mean()
    for attack in (
        Square(queries=60, eot=2, leave=10),
        Nes(steps=10, samples=4, leave=10, selection=4),
        Spsa(steps=10, samples=4, selection=4),
    ):
        result = attack(model, x, labels, noise=SeededNoise(2))
        after = score(model, result.adversarial, labels, noise=SeededNoise(3), passes=40)
        # 1200 flips: one standard deviation is 0.013
        assert abs(float(after.float().mean() - clean)) < 0.06 and not after.all(1).any()
        assert abs(float(result.survived.mean()) - 0.3) < 0.06


@pytest.mark.parametrize("model", [Linear(), defended()], ids=["fixed", "random"])
def test_passes_are_counted_exactly(model: nn.Module) -> None:
    x = clips(2)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    square = Square(queries=30, eot=3, selection=7)
    spent = [30 + 7] if isinstance(model, Linear) else [29 * 2 * 3 + 3 + 7]
    for attack, passes in [
        (square, spent[0]),
        (Nes(steps=5, samples=6, eot=2, selection=4), 5 * (6 + 2) + 2 + 2 * 4),
        (Spsa(steps=5, samples=6, selection=4), 5 * (6 + 1) + 1 + 2 * 4),
    ]:
        seen.clear()
        result = attack(model, x, zeros(2), noise=SeededNoise(0))
        assert result.queries.tolist() == [passes, passes] and sum(seen) == 2 * passes
        assert max(seen) <= attack.max_rows
        assert attack.cost.gradients == 0 and attack.cost.forwards >= passes
    # the last of them on a randomised model, exactly
    assert attack.cost.forwards == passes


def test_clips_that_fail_leave_and_cost_no_more() -> None:
    """The first clip is broken by any change, the second by none."""
    model, x = Linear(), torch.zeros(2, 64)
    with torch.no_grad():
        x[0] += 1e-4 * model.weight
        x[1] -= 0.2 * model.weight / model.weight.abs().max()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    for attack in (Square(queries=100, leave=2, selection=1), Nes(steps=40, samples=4, leave=2, selection=1)):
        seen.clear()
        result = attack(model, x, zeros(2), noise=SeededNoise(0))
        assert int(result.queries.sum()) == sum(seen) and result.queries[0] < result.queries[1] / 4
        assert result.loss[0] > 0 > result.loss[1]
        assert (result.history[0, 20:, 0].diff() == 0).all()


@pytest.mark.parametrize(("norm", "eps", "which"), EVERY)
def test_a_replay_is_bit_for_bit_and_a_clip_does_not_depend_on_its_batch(norm, eps, which) -> None:
    model, x, lengths = defended(), clips(3), torch.tensor([64, 50, 64])
    x[1, 50:] = 0
    attack = attacks(norm, eps, bits=None)[which]
    first, second, other = (
        attack(model, x, zeros(3), noise=SeededNoise(seed), lengths=lengths) for seed in (3, 3, 4)
    )
    assert torch.equal(first.adversarial, second.adversarial) and torch.equal(first.history, second.history)
    assert not torch.equal(first.adversarial, other.adversarial)
    assert not first.adversarial[1, 50:].any()
    for row in (1, 2):
        noise = SeededNoise(3).for_items([row])
        alone = attack(model, x[[row]], zeros(1), noise=noise, lengths=lengths[[row]])
        torch.testing.assert_close(alone.adversarial[0], first.adversarial[row], rtol=0, atol=0.02 * eps)
        torch.testing.assert_close(alone.history[..., 0], first.history[..., row], rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["linf", "l2"]),
    st.floats(1e-4, 2.0),
    st.integers(0, 2**20),
    st.floats(1e-3, 2.0),
    st.sampled_from([16, None]),
    st.integers(0, 3),
)
def test_budgets_hold_exactly(norm, eps, seed, scale, bits, which) -> None:
    x = (scale * SeededNoise(seed).normal((3, 50), draw=0)).clamp(-1, 1)
    x = (x / STEP16).round().clamp(max=32767) * STEP16
    lengths = torch.tensor([50, 20, 1])
    attack = attacks(norm, eps, bits=bits)[which]
    result = attack(Linear(50), x, torch.tensor([0, 1, 0]), noise=SeededNoise(seed), lengths=lengths)
    change = result.adversarial.double() - x.double()
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (size <= eps).all() and (result.adversarial.abs() <= 1).all()
    for row, length in zip(change, lengths, strict=True):
        assert not row[length:].any()
    if bits == 16:
        stored = (result.adversarial.double() * 32768).round().clamp(-32768, 32767)
        assert torch.equal((stored / 32768).float(), result.adversarial)


def test_a_targeted_attack_climbs_towards_its_label() -> None:
    model, x = Linear(), clips(scale=0.001)
    wanted = (model(x)[:, 1] <= 0).long()
    for attack in (
        Square(queries=100, targeted=True),
        Nes(steps=20, targeted=True),
        Spsa(steps=9, targeted=True),
    ):
        result = attack(model, x, wanted, noise=SeededNoise(0))
        assert score(model, result.adversarial, wanted, noise=SeededNoise(1)).all()


def test_square_breaks_the_shipped_recogniser_and_tones_are_why() -> None:
    data = load_dataset(Path(str(resources.files("audiopure") / "assets" / "clips"))).stratified(3, 0)
    x = torch.stack([nn.functional.pad(clip, (0, 16_000))[:16_000] for clip in data.load_all()])
    labels, model = data.targets(), audiopure.load_recogniser("digits")
    noise = SeededNoise(0)
    assert score(model, x, labels, noise=noise).all()
    with_tones, without = (
        Square(eps=0.02, queries=100, tones=tones, selection=1)(model, x, labels, noise=noise)
        for tones in (True, False)
    )
    assert not score(model, with_tones.adversarial, labels, noise=noise).any()
    assert float((with_tones.loss - without.loss).mean()) > 1


def test_labels_rebuild_and_bad_settings_are_refused() -> None:
    for attack in attacks("l2", 0.253):
        assert eval(repr(attack)) == attack
    assert Nes(steps=100).step == pytest.approx(0.04 * 0.002) and Spsa(step_size=0.1).step == 0.1
    for make in (
        lambda: Square(queries=0),
        lambda: Square(p_init=0.0),
        lambda: Square(norm="free"),  # type: ignore[arg-type]
        lambda: Square(bits=8),  # type: ignore[arg-type]
        lambda: Nes(samples=3),
        lambda: Nes(sigma=0.0),
        lambda: Nes(momentum=1.0),
        lambda: Spsa(steps=0),
        lambda: Spsa(step_size=0.0),
    ):
        with pytest.raises(InputError):
            make()
    objective, x = Objective(Linear(), zeros(2)), clips(2)
    with pytest.raises(InputError, match="distribution"):
        estimate(objective, x, SeededNoise(0), samples=2, sigma=0.1, distribution="cauchy")  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Square(queries=2)(Linear(), x, zeros(2) + 2, noise=SeededNoise(0))
