"""Numbers that go into tables: intervals of proportions, signal distances and ratios."""

from __future__ import annotations

import operator

import torch
from scipy.special import betaincinv
from torch import Tensor

from .errors import InputError


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion after k successes in n trials (Clopper & Pearson 1934).

    Returns:
        (low, high), which covers the true proportion with at least the given confidence, half of what is left
        on each side.

    Raises:
        InputError: unless 0 <= k <= n, n >= 1 and 0 < confidence < 1.
    """
    k, n = _check_counts(k, n, confidence)
    half = (1 - confidence) / 2
    return clopper_pearson_lower(k, n, half), 1 - clopper_pearson_lower(n - k, n, half)


def clopper_pearson_lower(k: int, n: int, alpha: float = 0.001) -> float:
    """Exact one-sided lower bound: the true proportion is below it with probability at most alpha.

    This is LowerConfBound of Cohen et al. 2019 (certified radii), equal to the lower end of the two-sided
    interval of confidence 1 - 2 alpha.

    Raises:
        InputError: unless 0 <= k <= n, n >= 1 and 0 < alpha < 1.
    """
    k, n = _check_counts(k, n, 1 - alpha)
    return float(betaincinv(k, n - k + 1, alpha)) if k else 0.0


def _check_counts(k: int, n: int, confidence: float) -> tuple[int, int]:
    try:
        k, n = operator.index(k), operator.index(n)
    except TypeError as error:
        raise InputError(f"an interval needs whole counts, not {k!r} of {n!r}.") from error
    if n < 1 or not 0 <= k <= n:
        raise InputError(f"an interval needs 0 <= k <= n and n >= 1, not {k} of {n}.")
    if not 0 < confidence < 1:
        raise InputError(f"a confidence lies strictly between 0 and 1, not at {confidence}.")
    return k, n


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019).

    10 log10(||a t||^2 / ||e - a t||^2) with the scale a = <e, t> / ||t||^2. The means are *not* removed: a
    constant that a purifier adds is a distortion like any other. Zeros at the end of both signals change
    nothing, so padded batches need no lengths.

    Shape: estimate and target (..., T) -> (...).

    Returns:
        +inf for a scaled copy of the target (up to rounding), -inf where the estimate contains nothing of it,
        nan where the target is silent. At least float32, differentiable.

    Raises:
        InputError: if the shapes differ.
    """
    estimate, target = _pair(estimate, target)
    power = target.square().sum(-1, keepdim=True)
    scaled = target * ((estimate * target).sum(-1, keepdim=True) / power)
    signal, distortion = scaled.square().sum(-1), (estimate - scaled).square().sum(-1)
    # a silent estimate has 0/0 here: nothing of the target is in it
    ratio = torch.where(signal == 0, torch.zeros_like(signal), signal / distortion)
    return 10 * torch.log10(ratio)


def snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB, the noise being estimate - target; a wrong level counts as noise.

    Shape: estimate and target (..., T) -> (...).

    Returns:
        +inf where both are equal, -inf where only the target is silent, nan where both are. At least float32,
        differentiable. Zeros at the end of both signals change nothing.

    Raises:
        InputError: if the shapes differ.
    """
    estimate, target = _pair(estimate, target)
    return 10 * torch.log10(target.square().sum(-1) / (estimate - target).square().sum(-1))


def l2(x: Tensor, reference: Tensor) -> Tensor:
    """Euclidean length of x - reference over time: (..., T), (..., T) -> (...), at least float32.

    Raises:
        InputError: if the shapes differ.
    """
    x, reference = _pair(x, reference)
    return torch.linalg.vector_norm(x - reference, dim=-1)


def linf(x: Tensor, reference: Tensor) -> Tensor:
    """Largest absolute difference over time: (..., T), (..., T) -> (...), at least float32.

    Raises:
        InputError: if the shapes differ.
    """
    x, reference = _pair(x, reference)
    return torch.linalg.vector_norm(x - reference, ord=float("inf"), dim=-1)


def _pair(x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one precision of at least float32, in which sums over a clip are accurate."""
    if x.shape != reference.shape or x.ndim == 0 or x.shape[-1] == 0:
        raise InputError(
            "signals to compare need one shape (..., time) and at least one sample, "
            f"not {tuple(x.shape)} and {tuple(reference.shape)}."
        )
    precision = torch.promote_types(torch.promote_types(x.dtype, reference.dtype), torch.float32)
    return x.to(precision), reference.to(precision)
