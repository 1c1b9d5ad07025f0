"""Goals, gradient routes and knowledge of the noise: what an attack wants, climbs and may know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks import Pgd, predict, score
from audiopure.attacks.criteria import CRITERIA, OpenSet, Verification, criterion
from audiopure.attacks.knowledge import settings
from audiopure.attacks.objective import Objective, call
from audiopure.attacks.routes import ROUTES, reroute
from audiopure.diffusion.gradient import Identity, NetworkConstant
from audiopure.diffusion.samplers import FewShot
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.noise import FORWARD, SeededNoise
from audiopure.purifier import Purifier

SCORES = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.1, 0.2, 3.0, -2.0]])


@pytest.mark.parametrize("loss", CRITERIA)
@pytest.mark.parametrize("targeted", [False, True])
def test_a_goal_grows_where_the_attacker_gains(loss: str, targeted: bool) -> None:
    goal, labels = criterion(loss, targeted), torch.tensor([1, 1] if targeted else [0, 1])
    before, better = goal.loss(SCORES, labels), SCORES.clone()
    better[torch.arange(2), labels] += 0.3 if targeted else -0.3
    assert (goal.loss(better, labels) > before).all()
    heard = SCORES.argmax(1) == labels
    assert torch.equal(goal.survived(SCORES, labels), ~heard if targeted else heard)


def test_dlr_is_the_formula_and_does_not_change_with_scale() -> None:
    labels = torch.tensor([0, 1])
    expected = torch.tensor([-(2.0 - 0.5) / (2.0 - 0.0), -(0.2 - 3.0) / (3.0 - 0.1)])
    torch.testing.assert_close(criterion("dlr", False).loss(SCORES, labels), expected)
    torch.testing.assert_close(criterion("dlr", False).loss(100 * SCORES + 7, labels), expected)
    wanted = torch.tensor([(0.5 - 2.0) / (2.0 - (0.0 - 1.0) / 2), (0.2 - 3.0) / (3.0 - (0.1 - 2.0) / 2)])
    torch.testing.assert_close(criterion("dlr", True).loss(SCORES, torch.tensor([1, 1])), wanted)
    with pytest.raises(InputError, match="3 classes"):
        criterion("dlr", False).loss(SCORES[:, :2], labels)


def test_speaker_goals() -> None:
    score_of = torch.tensor([[0.7], [0.2]])
    impostor, owner = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert Verification(0.5).loss(score_of, impostor).tolist() == pytest.approx([0.2, -0.3])
    assert Verification(0.5).loss(score_of, owner).tolist() == pytest.approx([-0.2, 0.3])
    assert Verification(0.5).survived(score_of, impostor).tolist() == [False, True]
    accept = Verification(0.5, targeted=True)
    assert accept.loss(score_of, owner).tolist() == pytest.approx([0.2, -0.3])
    assert accept.survived(score_of, owner).tolist() == [False, True]
    nobody = torch.tensor([4, 4])
    assert OpenSet(2.5).survived(SCORES, nobody).tolist() == [True, False]
    assert OpenSet(2.5).loss(SCORES, nobody).tolist() == pytest.approx([-0.5, 0.5])
    with pytest.raises(InputError, match="one score"):
        Verification(0.5).classes(SCORES)


def test_unknown_losses_and_contradictions() -> None:
    with pytest.raises(InputError, match="there are: ce, margin, dlr"):
        criterion("hinge", False)
    with pytest.raises(InputError, match="is targeted but its goal"):
        criterion(Verification(0.5), True)


class Ear(nn.Module):
    """Two classes by the sign of a fixed projection, which is not linear in the waveform."""

    def forward(self, waveform: Tensor) -> Tensor:
        weight = SeededNoise(5).normal((1, 64), draw=0)[0].to(waveform.dtype)
        value = torch.tanh(3 * (waveform @ weight))
        return torch.stack([value, -value], -1)


class Bent(nn.Module):
    """A denoiser that is not linear, so that routes differ."""

    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return 0.1 * torch.tanh(8 * x) + 0.3 * x.roll(1, -1)


def defended(n_star: float = 3) -> audiopure.Defended:
    return audiopure.defend(Ear(), Purifier(Bent(), n_star=n_star, schedule=NoiseSchedule.linear()))


def clips(batch: int = 4) -> Tensor:
    return 0.2 * SeededNoise(1).normal((batch, 64), draw=0, dtype=torch.float64)


@pytest.mark.parametrize("route", [name for name in ROUTES if name != "adjoint"])
def test_a_route_changes_the_gradient_and_not_the_model(route: str) -> None:
    model, x, noise = defended().double(), clips(), SeededNoise(3)
    labels = torch.zeros(4, dtype=torch.long)
    twin = reroute(model, route)
    assert model.purifier.gradient.exact and model.purifier.n_star == 3
    exact, other = (Objective(m, labels).gradient(x, noise, 2) for m in (model, twin))
    same_value = route in ("exact", "network-constant", "identity")
    assert torch.allclose(exact.loss, other.loss) == same_value
    assert torch.allclose(exact.gradient, other.gradient) == (route == "exact")


def test_a_surrogate_takes_as_many_steps_as_its_name_says() -> None:
    model: Any = defended(4)
    one, two = reroute(model, "surrogate-1"), reroute(model, "surrogate-2")
    x, labels = clips(), torch.zeros(4, dtype=torch.long)
    first, second = (
        Objective(m.double(), labels).gradient(x, SeededNoise(3), 2).gradient for m in (one, two)
    )
    by_hand = audiopure.defend(model.model, model.purifier.replace(sampler=FewShot(2))).double()
    assert torch.equal(second, Objective(by_hand, labels).gradient(x, SeededNoise(3), 2).gradient)
    assert not torch.allclose(first, second)
    twin: Any = reroute(model, "surrogate")
    assert torch.equal(first, Objective(twin.double(), labels).gradient(x, SeededNoise(3), 2).gradient)
    for wrong in ("surrogate-0", "surrogate-", "surrogate-two"):
        with pytest.raises(InputError, match="surrogate-K"):
            reroute(model, wrong)


def test_routes_share_parameters_and_reach_nested_models() -> None:
    inner = defended(1)
    twin: Any = reroute(nn.Sequential(nn.Identity(), inner), "identity")
    assert isinstance(twin[1].purifier.gradient, Identity) and twin[1].model is inner.model
    assert twin[1].purifier.denoiser is inner.purifier.denoiser
    assert inner.purifier.gradient.exact


def test_the_exact_route_repairs_a_declared_approximation() -> None:
    model = audiopure.defend(Ear(), defended().purifier.replace(gradient=NetworkConstant()))
    twin: Any = reroute(model, "exact")
    assert twin.purifier.gradient.exact


def test_routes_need_a_purifier_and_a_name() -> None:
    assert isinstance(reroute(Ear(), "exact"), Ear)
    with pytest.raises(InputError, match="needs a purifier"):
        reroute(Ear(), "identity")
    with pytest.raises(InputError, match="there are: exact"):
        reroute(Ear(), "straight")


def test_an_attack_by_another_route_is_judged_by_the_true_model() -> None:
    model, x = defended().double(), clips()
    labels = (predict(model, x, noise=SeededNoise(0), passes=50).mean(1).argmax(1)).long()
    attack = Pgd(eps=0.05, steps=5, eot=2, route="blind", bits=None, selection=16)
    result = attack(model, x, labels, noise=SeededNoise(2))
    judged = Objective(model, labels).value(result.adversarial, SeededNoise(2).fresh(1), 16)
    torch.testing.assert_close(result.loss, judged)


def test_known_draws_are_the_ones_that_score() -> None:
    """Each setting fixes its draws for every pass and clip, and leaves the others to chance."""
    x = clips()
    for name, fixed in (("DW_fwd", {FORWARD}), ("DW_rev", {1, 2}), ("DW_both", {FORWARD, 1, 2})):
        attacked, scored = settings(Spy(), 7, name)
        first, second = (draws(attacked, x, SeededNoise(s)) for s in (1, 2))
        final = draws(scored, x, SeededNoise(3))
        for draw in (FORWARD, 1, 2):
            assert torch.equal(first[draw], second[draw]) == (draw in fixed)
            assert torch.equal(first[draw], final[draw]) == (draw in fixed)
        assert not torch.equal(final[FORWARD][0], final[FORWARD][1])  # clips keep different draws
    single = draws(settings(Spy(), 7, "DW_both")[1], x[2:3], SeededNoise(9, items=(2,)))
    assert torch.equal(single[FORWARD][0], final[FORWARD][2])  # whatever batch a clip is in


class Spy(nn.Module):
    seen: dict[int, Tensor]

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        shape = (len(waveform), 64)
        self.seen = {draw: noise.normal(shape, draw=draw) for draw in (FORWARD, 1, 2)}
        return waveform[:, :2]


def draws(model: nn.Module, x: Tensor, noise: SeededNoise) -> dict[int, Tensor]:
    call(model, x, noise, None)
    spy = next(module for module in model.modules() if isinstance(module, Spy))
    return spy.seen


def test_a_known_set_of_draws_is_all_there_is() -> None:
    attacked, scored = settings(Spy(), 7, "semi-3")
    assert attacked is scored
    seen = {draws(attacked, clips(), SeededNoise(s))[FORWARD][0, 0].item() for s in range(40)}
    assert len(seen) == 3


def test_full_knowledge_is_no_weaker_than_none() -> None:
    model, x = defended(40).double(), clips(24)
    labels = predict(model, x, noise=SeededNoise(0), passes=40).mean(1).argmax(1)
    accuracy = {}
    for name in ("white-box", "DW_both"):
        attacked, scored = settings(model, 11, name)
        attack = Pgd(norm="l2", eps=0.25, steps=20, eot=1, bits=None, loss="margin")
        result = attack(attacked, x, labels, noise=SeededNoise(5))
        right = score(scored, result.adversarial, labels, noise=SeededNoise(6), passes=1)
        accuracy[name] = float(right.double().mean())
    assert accuracy["DW_both"] <= accuracy["white-box"]


@pytest.mark.parametrize("name", ["black-box", "semi-", "semi-0", "semi-x"])
def test_unknown_settings(name: str) -> None:
    with pytest.raises(InputError, match="DW_fwd"):
        settings(Ear(), 0, name)


def test_draws_grow_geometrically_to_eot() -> None:
    attack = Pgd(steps=100, eot=20, eot_start=2)
    found = [attack.draws(step) for step in range(100)]
    assert (found[0], found[-1]) == (2, 20) and found == sorted(found)
    assert found[50] == round((2 * 20) ** 0.5 * (20 / 2) ** (0.5 / 99))
    assert attack.cost.gradients == sum(found)
    # 34 looks, each through 7 fresh passes, in each of the restarts
    assert replace(attack, restarts=2, leave=7).cost.forwards == 2 * (attack.cost.forwards + 34 * 7)
    assert {Pgd(steps=4, eot=3).draws(step) for step in range(4)} == {3}


def test_a_clip_leaves_once_all_fresh_passes_fail() -> None:
    """What has left keeps its iterate and costs nothing more; what others do does not change."""
    model, x = Ear().double(), clips(12)
    labels = (model(x)[:, 1] > 0).long()
    settings_ = {"norm": "l2", "eps": 0.12, "steps": 20, "step_size": 0.02, "bits": None}
    stay = Pgd(**settings_)(model, x, labels, noise=SeededNoise(0))  # type: ignore[arg-type]
    leave = Pgd(**settings_, leave=4)(model, x, labels, noise=SeededNoise(0))  # type: ignore[arg-type]
    right = {r: (model(r.adversarial).argmax(1) == labels) for r in (stay, leave)}
    assert torch.equal(right[stay], right[leave])
    gone = leave.queries < stay.queries
    assert 0 < int(gone.sum()) < 12 and not right[leave][gone].any()
    torch.testing.assert_close(leave.adversarial[~gone], stay.adversarial[~gone])
    assert (leave.survived[0, -1][gone] == 0).all()
    alone = Pgd(
        **settings_, leave=4
    )(  # type: ignore[arg-type]
        model, x[3:4], labels[3:4], noise=SeededNoise(0, items=(3,))
    )
    torch.testing.assert_close(alone.adversarial[0], leave.adversarial[3])


def test_reverse_only_adds_no_forward_noise() -> None:
    purifier = defended(1).purifier.replace(forward=False)
    x = clips()
    assert torch.equal(purifier(x, noise=SeededNoise(1)), purifier(x, noise=SeededNoise(2)))
    noisy = purifier.replace(forward=True)
    assert not torch.equal(noisy(x, noise=SeededNoise(1)), noisy(x, noise=SeededNoise(2)))
