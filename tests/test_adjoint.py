"""The paper's adjoint: the output of the reverse SDE, exact on linear problems, wrong by a known amount."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from core_helpers import random_denoiser, signal
from torch import Tensor

from audiopure.api import load_purifier
from audiopure.data import load_dataset
from audiopure.diffusion.adjoint import Adjoint
from audiopure.diffusion.denoiser import Denoiser, GaussianDenoiser
from audiopure.diffusion.gradient import Full
from audiopure.diffusion.samplers import Ddpm, ReverseSde, Sampler
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import MissingExtraError
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

NOISE = SeededNoise(3)
LENGTH = 900


def both(denoiser: Denoiser, n_star: int, sampler: Sampler | None = None, **settings):
    """(output, gradient) by the adjoint and by plain autograd, for the same noise."""
    results = []
    for gradient in (Adjoint(), Full()):
        model = Purifier(
            denoiser, n_star=n_star, sampler=sampler or ReverseSde(), gradient=gradient, **settings
        )
        x = signal(2, LENGTH, 1).requires_grad_()
        out = model(x, noise=NOISE, lengths=torch.tensor([LENGTH, 700]))
        results.append((out.detach(), torch.autograd.grad((out * signal(2, LENGTH, 2, 1.0)).sum(), x)[0]))
    return results


def relative_error(estimate: Tensor, exact: Tensor) -> float:
    return float((estimate - exact).norm() / exact.norm())


@pytest.mark.parametrize("n_star", [1, 3, 10])
@pytest.mark.parametrize("sampler", [ReverseSde(), ReverseSde(variance="beta"), Ddpm()], ids=str)
def test_the_output_is_that_of_the_sampler_on_the_same_noise(sampler, n_star):
    (ours, _), (exact, _) = both(random_denoiser(), n_star, sampler)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_star", [1, 2, 3, 10])
def test_a_linear_denoiser_has_an_exact_adjoint(n_star):
    """Each step's Jacobian is constant then and differs between steps: one at a wrong index would show."""
    variance = torch.linspace(1e-5, 1e-2, LENGTH, dtype=torch.float64)
    (_, ours), (_, exact) = both(GaussianDenoiser(torch.zeros_like(variance), variance), n_star)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-14)


class _Bend(torch.nn.Module):
    """A smooth denoiser, mildly nonlinear at the scale of the signal."""

    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return x - 0.5 * torch.tanh(3 * x) * sigma**2 if isinstance(sigma, float) else x


def test_the_error_vanishes_with_the_step_width():
    """On a smooth process the adjoint is consistent: finer schedules bring it to the truth."""
    errors = []
    for count in (8, 16, 32):
        sigmas = torch.linspace(1 / count, 1, count, dtype=torch.float64).sqrt()
        schedule = NoiseSchedule.from_sigmas((0.7 * sigmas).tolist())
        (_, ours), (_, exact) = both(_Bend(), count, schedule=schedule)
        errors.append(relative_error(ours, exact))
    assert 1e-4 < errors[0] < 0.2
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2]


@pytest.mark.parametrize("n_star", [1, 3, 10])
def test_the_error_on_the_shipped_purifier_is_not_negligible(n_star, record_property):
    """The table of all strategies is made by benchmarks/gradients.py."""
    clips = load_dataset(Path(str(resources.files("audiopure") / "assets" / "clips")))
    x = torch.stack([clips.load(clips[i]) for i in (0, 30)]).double()
    shipped = load_purifier(n_star=n_star, sampler=ReverseSde()).double()
    gradients = []
    for gradient in (Adjoint(), Full()):
        y = x.clone().requires_grad_()
        out = shipped.replace(gradient=gradient)(y, noise=NOISE)
        gradients.append(torch.autograd.grad((out * signal(2, x.shape[1], 2, 1.0)).sum(), y)[0])
    error = relative_error(*gradients)
    cosine = float(torch.cosine_similarity(*(g.flatten() for g in gradients), dim=0))
    record_property("relative_error", error)
    record_property("cosine", cosine)
    assert not Adjoint.exact
    assert 0.05 < error < 2 and 0 < cosine < 0.999


def test_parameters_get_gradients_too():
    totals = []
    for gradient in (Adjoint(), Full()):
        net = GaussianDenoiser(torch.zeros(1), torch.ones(1))
        del net.variance
        net.variance = torch.nn.Parameter(torch.full((1,), 1e-3, dtype=torch.float64))
        model = Purifier(net, n_star=1, sampler=ReverseSde(), gradient=gradient)
        model(signal(1, LENGTH), noise=NOISE).square().sum().backward()
        assert net.variance.grad is not None
        totals.append(net.variance.grad)
    assert totals[0].sign() == totals[1].sign() != 0


def test_it_runs_without_gradients_and_without_steps():
    with torch.no_grad():
        out = Purifier(random_denoiser(), n_star=2, gradient=Adjoint())(signal(1, LENGTH), noise=NOISE)
    assert not out.requires_grad and bool(out.isfinite().all())
    x = signal(1, 5)
    assert Adjoint()((), random_denoiser(), x, ()) is x


def test_a_missing_torchsde_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchsde", None)
    with pytest.raises(MissingExtraError, match=r"audiopure\[sde\]"):
        Adjoint()((), random_denoiser(), signal(1, 5), ())
