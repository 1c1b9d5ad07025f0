"""Intervals against the beta distribution, signal measures against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom
from torch import Tensor

from audiopure.errors import InputError
from audiopure.metrics import clopper_pearson, clopper_pearson_lower, l2, linf, si_sdr, snr

COUNTS = [(0, 1), (1, 1), (0, 100), (1, 100), (37, 100), (99, 100), (100, 100), (99_000, 100_000)]


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_is_the_beta_quantile(k: int, n: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, k, n - k + 1) if k else 0.0
    high = beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    assert clopper_pearson(k, n, confidence) == pytest.approx((low, high), abs=1e-10)


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_lower_bound_is_the_beta_quantile(k: int, n: int, alpha: float) -> None:
    expected = beta.ppf(alpha, k, n - k + 1) if k else 0.0
    bound = clopper_pearson_lower(k, n, alpha)
    assert bound == pytest.approx(expected, abs=1e-10)
    assert bound == pytest.approx(clopper_pearson(k, n, 1 - 2 * alpha)[0], abs=1e-10)


def test_bounds_of_certain_outcomes_have_closed_forms() -> None:
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)), abs=1e-10)
    assert clopper_pearson_lower(20, 20, 0.001) == pytest.approx(0.001 ** (1 / 20), abs=1e-10)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.97])
def test_coverage_is_at_least_the_confidence(p: float) -> None:
    n = 30
    weights = binom.pmf(np.arange(n + 1), n, p)
    intervals = [clopper_pearson(k, n) for k in range(n + 1)]
    covered = sum(w for w, (low, high) in zip(weights, intervals, strict=True) if low <= p <= high)
    missed = sum(w for k, w in enumerate(weights) if clopper_pearson_lower(k, n, 0.05) > p)
    assert covered >= 0.95
    assert missed <= 0.05


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5), (0.5, 5), (3, 5.0)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(InputError):
        clopper_pearson(k, n)
    with pytest.raises(InputError):
        clopper_pearson_lower(k, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(InputError):
        clopper_pearson(1, 2, confidence)
    with pytest.raises(InputError):
        clopper_pearson_lower(1, 2, confidence)


def test_numpy_counts_are_taken() -> None:
    assert clopper_pearson(np.int64(3), np.int64(7)) == clopper_pearson(3, 7)  # type: ignore[arg-type]


def tone(cycles: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(1000) * (2 * math.pi * cycles / 1000) + phase)


def test_orthogonal_noise_gives_its_power_ratio() -> None:
    """Tones of different frequencies are orthogonal, so the ratio is that of their amplitudes."""
    for amplitude, decibels in [(0.1, 20.0), (1.0, 0.0), (0.001, 60.0), (10.0, -20.0)]:
        estimate = tone(5) + amplitude * tone(9)
        assert si_sdr(estimate, tone(5)).item() == pytest.approx(decibels, abs=0.01)
        assert snr(estimate, tone(5)).item() == pytest.approx(decibels, abs=0.01)


def test_only_snr_feels_the_level() -> None:
    estimate = tone(5) + 0.1 * tone(9)
    assert si_sdr(-0.25 * estimate, tone(5)).item() == pytest.approx(20.0, abs=0.01)
    assert snr(0.5 * tone(5), tone(5)).item() == pytest.approx(20 * math.log10(2), abs=0.01)


def test_si_sdr_is_the_angle_between_the_signals() -> None:
    """With angle t between the vectors the ratio is cot(t)^2; a phase shift of a tone is such an angle."""
    for angle in (0.1, 0.7, 1.5):
        expected = -20 * math.log10(math.tan(angle))
        assert si_sdr(tone(5, angle), tone(5)).item() == pytest.approx(expected, abs=0.01)


def test_a_constant_offset_is_a_distortion() -> None:
    assert si_sdr(tone(5) + 0.1, tone(5)).item() == pytest.approx(10 * math.log10(0.5 / 0.01), abs=0.01)


def test_padding_with_zeros_changes_nothing() -> None:
    pad = torch.nn.functional.pad
    estimate, target = tone(5) + 0.3 * tone(2), tone(5)
    for measure in (si_sdr, snr, l2, linf):
        padded = measure(pad(estimate, (0, 77)), pad(target, (0, 77)))
        torch.testing.assert_close(padded, measure(estimate, target))


def test_limits() -> None:
    silence = torch.zeros(1000)
    assert si_sdr(silence, tone(5)).item() == -math.inf
    assert si_sdr(tone(5), silence).isnan()
    assert si_sdr(2 * tone(5), tone(5)).item() > 120
    assert snr(tone(5), tone(5)).item() == math.inf
    assert snr(tone(5), silence).item() == -math.inf
    assert snr(silence, silence).isnan()


def test_batches_are_measured_item_by_item() -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, target = torch.randn(2, 3, 4, 50, generator=generator)
    for measure in (si_sdr, snr, l2, linf):
        batched = measure(estimate, target)
        assert batched.shape == (3, 4)
        torch.testing.assert_close(batched[1, 2], measure(estimate[1, 2], target[1, 2]))


def test_norms_against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    x, reference = torch.randn(2, 3, 50, generator=generator, dtype=torch.float64)
    difference = (x - reference).numpy()
    np.testing.assert_allclose(l2(x, reference), np.sqrt((difference**2).sum(-1)), rtol=1e-12)
    np.testing.assert_array_equal(linf(x, reference), np.abs(difference).max(-1))


def test_half_precision_is_measured_in_float32() -> None:
    x = tone(5).bfloat16()
    assert l2(x, torch.zeros_like(x)).item() == pytest.approx(math.sqrt(500), rel=1e-3)
    assert l2(x, torch.zeros_like(x)).dtype == torch.float32


def test_measures_are_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, target = torch.randn(2, 2, 20, generator=generator, dtype=torch.float64)
    for measure in (si_sdr, snr, l2):
        assert torch.autograd.gradcheck(measure, (estimate.clone().requires_grad_(), target))


@pytest.mark.parametrize("shapes", [((4,), (5,)), ((2, 4), (4,)), ((), ()), ((2, 0), (2, 0))])
def test_shapes_that_do_not_match_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for measure in (si_sdr, snr, l2, linf):
        with pytest.raises(InputError):
            measure(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
