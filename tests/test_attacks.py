"""Attacks: optimal where the optimum is known, exact in their budget, replayable, honest about luck."""

from __future__ import annotations

from typing import Literal, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import audiopure
from audiopure import Defended, InputError
from audiopure.attacks import Attack, Pgd, RandomNoise, predict, score
from audiopure.attacks.ball import STEP16, ball
from audiopure.attacks.criteria import cross_entropy
from audiopure.attacks.noise import Unattacked
from audiopure.attacks.objective import Objective
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

Norm = Literal["linf", "l2"]
NORMS: list[tuple[Norm, float]] = [("linf", 0.002), ("l2", 0.253)]


class Linear(nn.Module):
    """Two classes told apart by a hyperplane: every attack's optimum has a closed form."""

    def __init__(self, length: int = 64):
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(5).normal((1, length), draw=0)[0])

    def forward(self, waveform: Tensor) -> Tensor:
        value = waveform @ self.weight.to(waveform.dtype)
        return torch.stack([value, -value], -1)


class Flickering(Linear):
    """A draw adds noise of twice the gradient's length to its gradient, and none to its value."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        jitter = 2 * noise.normal((len(waveform), waveform.shape[1]), draw=0, dtype=waveform.dtype)
        value = waveform @ self.weight.to(waveform.dtype)
        slope = ((waveform - waveform.detach()) * jitter).sum(1)
        return torch.stack([torch.zeros_like(value), 2 * (value + slope)], -1)


class Only(SeededNoise):
    """A source whose fresh sources are itself."""

    def fresh(self, number: int) -> SeededNoise:
        return SeededNoise(self.seed)


class CoinFlip(nn.Module):
    """Right with probability 0.7, whatever it hears."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        coin = noise.normal((len(waveform), 1), draw=0)
        return torch.cat([0 * waveform[:, :1], coin - 0.5244], dim=1)


class Shrinker(nn.Module):
    """The exact denoiser of white Gaussian data of standard deviation 0.1."""

    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return x * (0.01 / (0.01 + torch.as_tensor(sigma, dtype=x.dtype) ** 2))


def clips(batch: int = 6, length: int = 64, scale: float = 0.2) -> Tensor:
    x = scale * SeededNoise(1).normal((batch, length), draw=0)
    return (x.clamp(-1, 1) / STEP16).round().clamp(max=32767) * STEP16


def defended(length: int = 64) -> Defended:
    return audiopure.defend(Linear(length), Purifier(Shrinker(), n_star=3, schedule=NoiseSchedule.linear()))


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_pgd_attains_the_optimum_of_a_linear_model(norm: Norm, eps: float, loss: str) -> None:
    model, x = Linear(), clips()
    labels = (model(x)[:, 1] > 0).long()
    sign = (1 - 2 * labels)[:, None].float()
    direction = -sign * model.weight.detach()
    unit = direction.sign() if norm == "linf" else direction / direction.norm(dim=1, keepdim=True)
    optimum = Objective(model, labels, loss).value(x + eps * unit, SeededNoise(0), 1)
    attack = Pgd(norm=norm, eps=eps, steps=40, step_size="paper", loss=loss, bits=None)
    result = attack(model, x, labels, noise=SeededNoise(3))
    torch.testing.assert_close(result.loss, optimum, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.adversarial, x + eps * unit, rtol=0, atol=1e-3 * eps)
    clean = Objective(model, labels, loss).value(x, SeededNoise(0), 1)
    assert (result.loss > clean).all()


def test_momentum_averages_the_noise_of_gradients() -> None:
    """Along single draws of a noisy gradient plain steps wander; momentum finds the mean direction."""
    model, labels = Flickering(), torch.zeros(20, dtype=torch.long)
    x = torch.zeros(20, 64)

    def loss(momentum: float) -> float:
        attack = Pgd(norm="l2", eps=0.1, steps=30, step_size="paper", momentum=momentum, loss="margin")
        history = attack(model, x, labels, noise=SeededNoise(0)).history
        return float(history[:, -10:].mean())

    best = 0.1 * float(model.weight.detach().norm()) * 2
    assert loss(0.0) < 0.86 * best and 0.89 * best < loss(0.9) <= best * 1.001
    with pytest.raises(InputError, match="momentum"):
        Pgd(momentum=1.1)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_a_targeted_attack_climbs_towards_its_label(norm: Norm, eps: float) -> None:
    model, x = Linear(), clips(scale=0.001)
    wanted = (model(x)[:, 1] <= 0).long()
    result = Pgd(norm=norm, eps=eps, steps=10, targeted=True)(model, x, wanted, noise=SeededNoise(0))
    assert score(model, result.adversarial, wanted, noise=SeededNoise(1)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["linf", "l2"]),
    st.floats(1e-4, 3.0),
    st.integers(0, 2**20),
    st.floats(1e-3, 2.0),
    st.sampled_from([16, None]),
    st.booleans(),
)
def test_budgets_hold_exactly(norm, eps, seed, scale, bits, on_grid) -> None:
    x = (scale * SeededNoise(seed).normal((3, 50), draw=0)).clamp(-1, 1)
    if on_grid:
        x = (x / STEP16).round().clamp(max=32767) * STEP16
    lengths = torch.tensor([50, 20, 1])
    model = Linear(50)
    labels = torch.tensor([0, 1, 0])
    attack = Pgd(norm=norm, eps=eps, steps=3, bits=bits)
    adversarial = attack(model, x, labels, noise=SeededNoise(seed), lengths=lengths).adversarial
    change = adversarial.double() - x.double()
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (size <= eps).all()
    assert (adversarial.abs() <= 1).all()
    for row, length in zip(change, lengths, strict=True):
        assert not row[length:].any()
    if bits == 16 and on_grid:
        stored = (adversarial.double() * 32768).round().clamp(-32768, 32767)
        assert torch.equal((stored / 32768).float(), adversarial)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_rounding_to_16_bits_spends_nearly_the_whole_budget(norm: Norm, eps: float) -> None:
    x = clips(2, 16_000, 0.1)
    model = Linear(16_000)
    labels = (model(x)[:, 1] > 0).long()
    change = Pgd(norm=norm, eps=eps, steps=10)(model, x, labels, noise=SeededNoise(0)).adversarial - x
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    floor = eps - STEP16 if norm == "linf" else 0.9999 * eps
    assert (size >= floor).all() and (size <= eps).all()


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_projection_is_the_nearest_point(norm: Norm, eps: float) -> None:
    centre, far = torch.zeros(1, 8), torch.linspace(-0.9, 0.9, 8)[None]
    point = ball(norm, eps, centre).project(far)
    expected = far.clamp(-eps, eps) if norm == "linf" else far * (eps / far.norm())
    torch.testing.assert_close(point, expected, rtol=1e-5, atol=0)
    inside = 0.5 * point
    assert torch.equal(ball(norm, eps, centre).project(inside), inside)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_a_replay_is_bit_for_bit_and_another_seed_is_not(norm: Norm, eps: float) -> None:
    model, x, labels = defended(), clips(), torch.zeros(6, dtype=torch.long)
    attack = Pgd(norm=norm, eps=eps, steps=4, eot=3, restarts=2)
    first = attack(model, x, labels, noise=SeededNoise(9))
    torch.manual_seed(123)
    again = attack(model, x, labels, noise=SeededNoise(9))
    other = attack(model, x, labels, noise=SeededNoise(10))
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.history, again.history)
    assert first.history.shape == (2, 5, 6)
    assert not torch.equal(first.history, other.history)


@pytest.mark.parametrize("max_rows", [1, 5, 64])
def test_a_clip_is_attacked_alike_alone_in_a_batch_and_in_chunks(max_rows: int) -> None:
    model, x, labels = defended().double(), clips().double(), torch.zeros(6, dtype=torch.long)
    noise = SeededNoise(2).for_items([10, 11, 12, 13, 14, 15])
    whole = Pgd(norm="l2", eps=0.1, steps=4, eot=3, bits=None)(model, x, labels, noise=noise)
    part = Pgd(norm="l2", eps=0.1, steps=4, eot=3, bits=None, max_rows=max_rows)(
        model, x[[3, 1]], labels[:2], noise=noise.for_items([13, 11])
    )
    torch.testing.assert_close(part.adversarial, whole.adversarial[[3, 1]], rtol=0, atol=1e-12)


def test_padding_does_not_change_an_attack() -> None:
    model, x, labels = defended(), clips(1, 64), torch.zeros(1, dtype=torch.long)
    x[:, 40:] = 0
    attack = Pgd(norm="l2", eps=0.1, steps=4, eot=2, bits=None)
    noise, lengths = SeededNoise(2), torch.tensor([40])
    padded = attack(model, x, labels, noise=noise, lengths=lengths).adversarial
    linear = cast(Linear, model.model)
    linear.weight = nn.Parameter(linear.weight.detach()[:40].clone())
    alone = attack(model, x[:, :40], labels, noise=noise).adversarial
    torch.testing.assert_close(padded[:, :40], alone, rtol=0, atol=1e-6)
    assert not padded[:, 40:].any()


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_luck_does_not_count_as_success(norm: Norm, eps: float) -> None:
    model, x = CoinFlip(), clips(50)
    labels = torch.ones(50, dtype=torch.long)
    clean = score(model, x, labels, noise=SeededNoise(1), passes=40)
    attack = Pgd(norm=norm, eps=eps, steps=10, restarts=2)
    attacked = attack(model, x, labels, noise=SeededNoise(2)).adversarial
    after = score(model, attacked, labels, noise=SeededNoise(3), passes=40)
    # 2000 flips: one standard deviation is 0.01
    assert abs(clean.float().mean() - 0.3) < 0.04
    assert abs(after.float().mean() - clean.float().mean()) < 0.05
    assert not after.all(1).any()


def test_the_gradient_of_a_confident_answer_does_not_vanish() -> None:
    logits = torch.tensor([[60.0, 0.0, -1.0], [0.3, -0.2, 0.1]], requires_grad=True)
    labels = torch.tensor([0, 2])
    losses = cross_entropy(logits, labels)
    expected = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-7)
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    assert slope[0, 0] == pytest.approx(-slope[0, 1:].sum().item()) and slope[0, 0] < 0


def test_eot_averages_the_gradient_of_the_loss() -> None:
    model, x, labels = defended(), clips(1), torch.zeros(1, dtype=torch.long)
    objective = Objective(model, labels)
    exact = objective.gradient(x, SeededNoise(7), 2000).gradient

    def spread(draws: int) -> float:
        found = [objective.gradient(x, SeededNoise(100 + i), draws).gradient - exact for i in range(60)]
        return float(torch.stack(found).square().sum(-1).mean())

    assert spread(1) / spread(8) == pytest.approx(8, rel=0.6)
    loss, _, slope = objective.gradient(x, SeededNoise(7), 3)
    assert torch.allclose(loss, objective.value(x, SeededNoise(7), 3))
    singles = [objective.gradient(x, Only(SeededNoise(7).fresh(k).seed), 1).gradient for k in range(3)]
    torch.testing.assert_close(slope, torch.stack(singles).mean(0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_gradient_through_a_defence_is_the_finite_difference(norm: Norm) -> None:
    model, x = defended().double(), clips(2).double()
    labels, noise = torch.tensor([0, 1]), SeededNoise(4)
    objective = Objective(model, labels)
    slope = objective.gradient(x, noise, 3).gradient
    direction = ball(norm, 1.0, x).ascent(SeededNoise(8).normal((2, 64), draw=0, dtype=torch.float64))
    h = 1e-6
    ahead, behind = (objective.value(x + s * h * direction, noise, 3) for s in (1, -1))
    torch.testing.assert_close((slope * direction).sum(1), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_random_noise_spends_the_budget_and_beats_no_one(norm: Norm, eps: float) -> None:
    model, x = Linear(400), clips(8, 400, 0.1)
    labels = (model(x)[:, 1] > 0).long()
    noisy = RandomNoise(norm=norm, eps=eps)(model, x, labels, noise=SeededNoise(0))
    change = noisy.adversarial - x
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (size <= eps).all() and (size > 0.98 * eps).all()
    attacked = Pgd(norm=norm, eps=eps, steps=5)(model, x, labels, noise=SeededNoise(0))
    assert (attacked.loss > noisy.loss).all()


@pytest.mark.parametrize("attack", [RandomNoise(), Unattacked(passes=3)])
def test_attacks_of_no_steps_refuse_what_does_not_fit(attack: Attack) -> None:
    model, x, labels = Linear(), clips(2), torch.tensor([0, 1])
    spoilt = x.clone()
    spoilt[1, 3] = torch.nan
    for waveform in (spoilt, x + 2, x[0], x.int(), x[:1]):
        with pytest.raises(InputError, match="an attack needs"):
            attack(model, waveform, labels, noise=SeededNoise(0))
    assert (attack(model, x, labels, noise=SeededNoise(0)).queries == attack.cost.forwards).all()


def test_predictions_of_fresh_passes() -> None:
    model, x = defended(), clips(4)
    heard = predict(model, x, noise=SeededNoise(0), passes=5, max_rows=7)
    assert heard.shape == (4, 5, 2)
    torch.testing.assert_close(heard.sum(-1), torch.ones(4, 5))
    torch.testing.assert_close(heard, predict(model, x, noise=SeededNoise(0), passes=5))
    fixed = predict(Linear(), x, noise=SeededNoise(0), passes=3)
    assert torch.equal(fixed[:, 0], fixed[:, 2])
    single = model(x, noise=SeededNoise(0).fresh(2)).softmax(-1)
    torch.testing.assert_close(heard[:, 2], single)


def test_a_label_in_a_table_rebuilds_the_attack() -> None:
    attack = Pgd(norm="l2", eps=0.253, steps=20, step_size="paper", eot=4)
    assert eval(repr(attack)) == attack
    assert attack.step == 0.253 / 2
    assert Pgd(step_size="paper").step == 0.002 / 5
    assert Pgd(steps=10).step == pytest.approx(0.0005)


class Broken(nn.Module):
    def forward(self, waveform: Tensor) -> Tensor:
        return waveform[:, :2] * torch.nan


def test_bad_input() -> None:
    x, labels, noise = clips(), torch.zeros(6, dtype=torch.long), SeededNoise(0)
    bad = [
        (Pgd(), x.long(), labels),
        (Pgd(), x[0], labels),
        (Pgd(), x, labels[:3]),
        (Pgd(), x, labels + 2),
        (Pgd(), x * 20, labels),
        (Pgd(), x * torch.nan, labels),
        (Pgd(eps=0.0), x, labels),
        (Pgd(loss="l1"), x, labels),  # type: ignore[arg-type]
    ]
    for attack, waveform, targets in bad:
        with pytest.raises(InputError):
            attack(Linear(), waveform, targets, noise=noise)
    faulty = [{"steps": 0}, {"eot": 0}, {"restarts": 0}, {"bits": 8}, {"step_size": "small"}, {"norm": "l1"}]
    for settings_ in faulty:
        with pytest.raises(InputError):
            Pgd(**settings_)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finite"):
        predict(Broken(), x, noise=noise)


# --- models that hide the defended one ----------------------------------------------------------------------


class Voting(nn.Module):
    """The mean of two defended models, with a forward that knows nothing of noise."""

    def __init__(self, *members: nn.Module):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, waveform: Tensor) -> Tensor:
        return torch.stack([member(waveform) for member in self.members]).mean(0)


def wrapped(kind: str) -> nn.Module:
    inner = defended()
    if kind == "compiled":
        return cast(nn.Module, torch.compile(nn.Sequential(inner), backend="eager"))
    return {"sequential": nn.Sequential, "parallel": nn.DataParallel, "voting": Voting}[kind](inner)


@pytest.mark.parametrize("kind", ["sequential", "parallel", "voting", "compiled"])
def test_an_attack_on_a_wrapped_defence_is_replayed_bit_for_bit(kind: str) -> None:
    x, labels = clips(), torch.zeros(len(clips()), dtype=torch.long)
    attack = Pgd(norm="linf", eps=0.01, steps=4, eot=2)
    first, second, plain = (
        attack(model, x, labels, noise=SeededNoise(3)) for model in (wrapped(kind), wrapped(kind), defended())
    )
    other = attack(wrapped(kind), x, labels, noise=SeededNoise(4))
    assert torch.equal(first.adversarial, second.adversarial) and torch.equal(first.history, second.history)
    assert torch.equal(first.adversarial, plain.adversarial) and torch.equal(first.history, plain.history)
    assert not torch.equal(first.history, other.history)


def test_defended_models_side_by_side_draw_independent_noise() -> None:
    x, noise = clips(), SeededNoise(3)
    one, two = predict(defended(), x, noise=noise), predict(Voting(defended(), defended()), x, noise=noise)
    assert torch.equal(two, predict(Voting(defended(), defended()), x, noise=noise))
    assert not torch.equal(one, two)


def test_the_noise_of_an_attack_ends_with_it() -> None:
    x = clips()
    for model in (wrapped("sequential"), wrapped("compiled")):
        predict(model, x, noise=SeededNoise(3))
        assert len({tuple(model(x).flatten().tolist()) for _ in range(4)}) == 4


def test_a_purifier_that_the_noise_cannot_reach_is_refused() -> None:
    purifier, x = Purifier(Shrinker()), clips()
    with pytest.raises(InputError, match="noise cannot be replayed"):
        predict(nn.Sequential(purifier, Linear()), x, noise=SeededNoise(0))
    assert predict(nn.Sequential(Purifier(Shrinker(), n_star=0), Linear()), x, noise=SeededNoise(0)).any()
