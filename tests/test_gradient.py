"""Gradients through the purification: exact ones against finite differences, and what each costs."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from core_helpers import random_denoiser, signal
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from audiopure.diffusion.gradient import Full, Gradient, Identity, NetworkConstant, Recompute
from audiopure.diffusion.samplers import Ddim, Ddpm, ProbabilityFlow, ReverseSde, Sampler
from audiopure.level import SpeechLevel
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

LENGTH = 900
NOISE = SeededNoise(3)
STEPS = [1, 3, 10]


def purifier(n_star: int, gradient: Gradient, sampler: Sampler | None = None, **settings) -> Purifier:
    return Purifier(random_denoiser(), n_star=n_star, gradient=gradient, sampler=sampler, **settings)


def gradient_of(model: Purifier, x: Tensor, cotangent: Tensor, **arguments) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad((model(x, noise=NOISE, **arguments) * cotangent).sum(), x)[0]


def finite_difference(function, x: Tensor, direction: Tensor, width: float = 2e-5) -> float:
    """Directional derivative, sixth-order central differences."""
    weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    total = sum(
        w * (function(x + k * width * direction) - function(x - k * width * direction))
        for k, w in weights.items()
    )
    return float(total) / width


@pytest.mark.parametrize("n_star", STEPS)
@pytest.mark.parametrize("sampler", [Ddpm(), ReverseSde(), ProbabilityFlow(), Ddim()], ids=str)
def test_full_equals_finite_differences(sampler, n_star):
    model = purifier(n_star, Full(), sampler, level=SpeechLevel())
    x, cotangent = signal(2, LENGTH, 1), signal(2, LENGTH, 2, scale=1.0)
    gradient = gradient_of(model, x, cotangent)

    def loss(at: Tensor) -> Tensor:
        return (model(at, noise=NOISE) * cotangent).sum()

    for seed in (3, 4):
        direction = signal(2, LENGTH, seed, scale=1.0)
        measured = finite_difference(loss, x, direction)
        size = float(gradient.norm() * direction.norm())
        assert abs(float((gradient * direction).sum()) - measured) < 1e-7 * size


@pytest.mark.parametrize("n_star", STEPS)
def test_full_equals_forward_mode_to_round_off(n_star):
    """Reverse mode against forward mode, which shares no backward formula with it."""
    model = purifier(n_star, Full(), level=SpeechLevel())
    x, cotangent, direction = signal(2, LENGTH, 1), signal(2, LENGTH, 2, 1.0), signal(2, LENGTH, 3, 1.0)
    gradient = gradient_of(model, x, cotangent)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction), noise=NOISE)).tangent
    assert tangent is not None
    gap = float((tangent * cotangent).sum() - (gradient * direction).sum())
    assert abs(gap) < 1e-13 * float(gradient.norm() * direction.norm())


@pytest.mark.parametrize("n_star", STEPS)
@pytest.mark.parametrize("sampler", [Ddpm(), ReverseSde(), ProbabilityFlow(), Ddim()], ids=str)
def test_recompute_equals_full_to_round_off(sampler, n_star):
    x, cotangent, lengths = signal(2, LENGTH, 1), signal(2, LENGTH, 2, 1.0), torch.tensor([LENGTH, 500])
    full, again = (
        gradient_of(purifier(n_star, g, sampler), x, cotangent, lengths=lengths)
        for g in (Full(), Recompute())
    )
    assert float((full - again).norm() / full.norm()) < 1e-14


def test_recompute_gives_the_same_parameter_gradients():
    results = []
    for gradient in (Full(), Recompute()):
        model = purifier(3, gradient).requires_grad_(True)
        model(signal(2, LENGTH), noise=NOISE).square().sum().backward()
        results.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert results[0].numel() > 1000
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", [Full(), Recompute(), NetworkConstant(), Identity()], ids=str)
def test_every_strategy_gives_the_same_outputs(gradient):
    x = signal(2, LENGTH)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            out = purifier(3, gradient)(x.requires_grad_(grad), noise=NOISE)
            reference = purifier(3, Full())(x, noise=NOISE)
        assert torch.equal(out, reference) if gradient.exact else torch.allclose(out, reference, atol=1e-15)


class _Meter(TorchDispatchMode):
    """Bytes of all live tensors made inside the context, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def peak_bytes(n_star: int, gradient: Gradient) -> int:
    model = Purifier(random_denoiser(width=48).float(), n_star=n_star, gradient=gradient)
    x = signal(1, 8000).float().requires_grad_()
    with _Meter() as meter:
        model(x, noise=NOISE).square().sum().backward()
    return meter.peak


def test_the_memory_of_recompute_does_not_grow_with_the_steps():
    full, again = ([peak_bytes(n, gradient) for n in STEPS] for gradient in (Full(), Recompute()))
    waveform = 8000 * 4
    # one state and one draw are kept for each step; the network's activations only once
    assert again[2] <= again[0] + 9 * 4 * waveform
    assert again[2] < 1.5 * again[0]
    assert full[2] > 5 * full[0]  # the meter sees growth where there is some


@pytest.mark.parametrize("n_star", STEPS)
@pytest.mark.parametrize("sampler", [Ddpm(), ReverseSde()], ids=str)
def test_the_released_gradient_is_a_scalar_times_the_cotangent(sampler, n_star):
    """The score network under no_grad leaves the linear terms of each step alone."""
    model = purifier(n_star, NetworkConstant(), sampler)
    x, cotangent = signal(2, LENGTH), signal(2, LENGTH, 5)
    gradient = gradient_of(model, x, cotangent)
    scalar = model.schedule.alpha_bar(n_star) ** 0.5
    for n in range(1, n_star + 1):
        beta = model.schedule.beta(n)
        scalar *= (1 - beta) ** -0.5 if isinstance(sampler, Ddpm) else 1 + beta / 2
    torch.testing.assert_close(gradient, scalar * cotangent, rtol=1e-10, atol=1e-14)
    cosine = torch.cosine_similarity(gradient.flatten(), cotangent.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n_star", STEPS)
def test_identity_passes_the_gradient_around_the_reverse_process(n_star):
    model = purifier(n_star, Identity())
    x, cotangent = signal(2, LENGTH), signal(2, LENGTH, 5)
    scalar = model.schedule.alpha_bar(n_star) ** 0.5
    torch.testing.assert_close(gradient_of(model, x, cotangent), scalar * cotangent)


@pytest.mark.parametrize("gradient", [NetworkConstant(), Identity()], ids=str)
def test_inexact_strategies_say_so_and_are(gradient):
    assert not gradient.exact and Full().exact and Recompute().exact
    x, cotangent = signal(2, LENGTH), signal(2, LENGTH, 5)
    exact = gradient_of(purifier(3, Full()), x, cotangent)
    assert float((gradient_of(purifier(3, gradient), x, cotangent) - exact).norm() / exact.norm()) > 0.1


def test_a_no_grad_in_the_network_would_be_noticed(monkeypatch):
    """The audit itself: hide the network from autograd and the finite differences must disagree."""
    model = purifier(3, Full())
    net = model.denoiser
    assert isinstance(net, torch.nn.Module)
    x, cotangent, direction = (signal(1, LENGTH, seed, 1.0) for seed in (1, 2, 3))

    def slope() -> float:
        return float((gradient_of(model, 0.1 * x, cotangent) * direction).sum())

    def loss(at: Tensor) -> Tensor:
        return (model(at, noise=NOISE) * cotangent).sum()

    measured = finite_difference(loss, 0.1 * x, direction)
    assert slope() == pytest.approx(measured, rel=1e-5)
    monkeypatch.setattr(net, "forward", torch.no_grad()(net.forward))
    assert abs(slope() - measured) > 0.01 * abs(measured)


def test_double_backward_is_available():
    """Attacks with second-order terms (guidance) differentiate the gradient again."""
    x, cotangent = signal(1, 300), signal(1, 300, 2, 1.0)
    for model in itertools.starmap(purifier, [(2, Full()), (2, Recompute())]):
        y = x.clone().requires_grad_()
        (first,) = torch.autograd.grad((model(y, noise=NOISE) * cotangent).sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), y)

        def loss(at: Tensor, model: Purifier = model) -> Tensor:
            return gradient_of(model, at, cotangent).square().sum()

        direction = signal(1, 300, 4, 1.0)
        expected = finite_difference(loss, x, direction)
        assert float((second * direction).sum()) == pytest.approx(expected, rel=1e-5)
