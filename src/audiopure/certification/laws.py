"""Smoothing noise: how it is drawn, and the radius that a share of equal answers gives.

The answer of a smoothed classifier at x is the label its base gives most often to x plus noise. If that
label's share is at least p, no other share exceeds q, and the noise follows one of these laws, then the
answer is the same at every x + delta with `norm` of delta below `radius(p, q)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from audiopure.errors import InputError


class Law(Protocol):
    """A law of smoothing noise."""

    @property
    def sigma(self) -> float:
        """Standard deviation of each sample, what a denoiser needs to know."""
        ...

    @property
    def norm(self) -> str:
        """The norm of the certificate, in words."""
        ...

    def noise(self, normal: Tensor) -> Tensor:
        """Noise made of standard normal values. Shape: (n, ...) -> the same."""
        ...

    def radius(self, p: float, q: float | None = None) -> float:
        """The radius for a top share of at least p and others of at most q, by default 1 - p; 0 for none."""
        ...

    def implied(self, radius: float, samples: int) -> Mapping[str, float]:
        """Radii in other norms that follow from one in `norm`, for objects of `samples` numbers."""
        ...

    def size(self, change: Tensor) -> float:
        """A change in the certified norm. Shape: (...)."""
        ...

    def largest(self, radius: float, samples: int) -> float:
        """The largest L2 norm of a change within a radius."""
        ...

    def band(self, radius: float, low: float, high: float, samples: int, sample_rate: int) -> float:
        """The L2 radius for changes of a waveform within low..high Hz."""
        ...


def _gaussian_radius(sigma: float, p: float, q: float | None) -> float:
    q = 1 - p if q is None else min(q, 1 - p)
    if p <= q:
        return 0.0
    # of q = 0 nothing but p is known to bound it
    return sigma / 2 * float(ndtri(p) - ndtri(q)) if q > 0 else math.inf


def _check(scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise InputError(f"smoothing needs noise of a positive, finite size, got {scale:g}")


@dataclass(frozen=True)
class Gaussian:
    """White Gaussian noise: sigma / 2 (quantile(p) - quantile(q)) in L2, which is tight (Cohen et al. 2019).

    Raises InputError unless 0 < sigma < infinity.
    """

    sigma: float
    norm = "L2"

    def __post_init__(self) -> None:
        _check(self.sigma)

    def noise(self, normal: Tensor) -> Tensor:
        return self.sigma * normal

    def radius(self, p: float, q: float | None = None) -> float:
        return _gaussian_radius(self.sigma, p, q)

    def implied(self, radius: float, samples: int) -> Mapping[str, float]:
        """L-infinity: no vector of smaller entries has a larger L2 norm. L1: it is never below L2."""
        return {"L∞": radius / math.sqrt(samples), "L1": radius}

    def size(self, change: Tensor) -> float:
        return float(change.norm())

    def largest(self, radius: float, samples: int) -> float:
        return radius

    def band(self, radius: float, low: float, high: float, samples: int, sample_rate: int) -> float:
        return radius


@dataclass(frozen=True)
class Laplace:
    """Laplace noise, independent in every sample: certifies L1 (Teng et al. 2020).

    A change of norm r makes no share more than e^(r/scale) times as large or as small, and neither what it
    leaves to the others. So p e^(-r/scale) > q e^(r/scale) suffices, and so does 1 - (1 - p) e^(r/scale) >
    q e^(r/scale): the radius is the larger of scale/2 log(p/q) and -scale log(1 - p + q). Standard deviation
    sqrt(2) scale.

    Raises InputError unless 0 < scale < infinity.
    """

    scale: float
    norm = "L1"

    def __post_init__(self) -> None:
        _check(self.scale)

    @property
    def sigma(self) -> float:
        return math.sqrt(2) * self.scale

    def noise(self, normal: Tensor) -> Tensor:
        # the size of a Laplace value has the chance of the normal's size: -log of the two-sided tail
        tail = torch.special.log_ndtr(-normal.abs()) + math.log(2)
        return -self.scale * normal.sign() * tail

    def radius(self, p: float, q: float | None = None) -> float:
        q = 1 - p if q is None else min(q, 1 - p)
        if p <= q:
            return 0.0
        return self.scale * max(math.log(p / q) / 2, -math.log1p(q - p)) if q > 0 else math.inf

    def implied(self, radius: float, samples: int) -> Mapping[str, float]:
        """L2 and L-infinity: a vector's L1 norm is at most sqrt(samples) and `samples` times these."""
        return {"L2": radius / math.sqrt(samples), "L∞": radius / samples}

    def size(self, change: Tensor) -> float:
        return float(change.abs().sum())

    def largest(self, radius: float, samples: int) -> float:
        """All of it in one sample."""
        return radius

    def band(self, radius: float, low: float, high: float, samples: int, sample_rate: int) -> float:
        return radius / math.sqrt(samples)


@dataclass(frozen=True)
class Shaped:
    """Gaussian noise through a fixed filter: certifies the ellipsoid |delta / gains|_2 in the spectrum.

    Noise `gains * white`, a circular filter by the real Fourier transform of the whole waveform. A change has
    the same chance as under white noise after the inverse filter, so that Cohen's radius holds for the L2
    norm of H^-1 delta (Fischer et al. 2020; a Mahalanobis ball). Where the gains are large, large changes are
    certified. The filter may depend on a clip's length and on nothing else of it.

    Args:
        sigma: standard deviation of a sample of the noise: gains are scaled to leave white noise its power.
        response: makes positive gains (samples // 2 + 1,), from 0 to half the sample rate, for waveforms of
            so many samples, such as `Response`. Its gains are asked for once a length.

    Raises InputError unless 0 < sigma < infinity, and at first use for gains that are not positive and
    finite, or span more than `RANGE`.
    """

    sigma: float
    response: Callable[[int], NDArray[np.float64]]
    norm = "L2 of H^-1 delta"

    def __post_init__(self) -> None:
        _check(self.sigma)

    def gains(self, samples: int) -> NDArray[np.float64]:
        """H for waveforms of so many samples: (samples // 2 + 1,), mean square over all bins 1."""
        return _scaled(self.response, samples)

    def noise(self, normal: Tensor) -> Tensor:
        return self.sigma * _filtered(normal, self.gains(normal.shape[-1]))

    def inverse(self, delta: Tensor) -> Tensor:
        """H^-1 delta, whose L2 norm is what is certified. Shape: (..., samples) -> the same."""
        return _filtered(delta, 1 / self.gains(delta.shape[-1]))

    def radius(self, p: float, q: float | None = None) -> float:
        return _gaussian_radius(self.sigma, p, q)

    def implied(self, radius: float, samples: int) -> Mapping[str, float]:
        """L2 of any change: |delta| is at least the least gain times |H^-1 delta|."""
        return {"L2": radius * float(self.gains(samples).min())}

    def size(self, change: Tensor) -> float:
        return float(self.inverse(change).norm())

    def largest(self, radius: float, samples: int) -> float:
        """All of it where the noise is strongest."""
        return radius * float(self.gains(samples).max())

    def band(self, radius: float, low: float, high: float, samples: int, sample_rate: int) -> float:
        """The least gain in the band times the radius; InputError if no bin of the spectrum lies there."""
        hz = np.fft.rfftfreq(samples, 1 / sample_rate)
        inside = (hz >= low) & (hz <= high)
        if not inside.any():
            raise InputError(f"no frequency of the filter lies between {low:g} and {high:g} Hz")
        return radius * float(self.gains(samples)[inside].min())


RANGE = 100.0  # dB of a filter's gains: beyond, float32 loses the noise of the weak bands in the strong ones'


@dataclass(frozen=True)
class Response:
    """Gains through points (Hz, dB), straight lines between them, level before the first and after the last.

    Raises InputError for fewer than two points, frequencies that do not grow, numbers that are not finite, or
    a span above `RANGE`.
    """

    points: tuple[tuple[float, float], ...]
    sample_rate: int

    def __post_init__(self) -> None:
        hz, db = ([point[part] for point in self.points] for part in (0, 1))
        if len(hz) < 2 or not all(map(math.isfinite, hz + db)) or any(b <= a for a, b in pairwise(hz)):
            raise InputError("a filter's shape is two points or more, at growing frequencies")
        if max(db) - min(db) > RANGE:
            raise InputError(f"a filter's shape spans at most {RANGE:g} dB, not {max(db) - min(db):g}")

    @classmethod
    def of(cls, text: str, sample_rate: int) -> Response:
        """From "HZ:DB,HZ:DB,...". Raises InputError for another text."""
        try:
            parts = [part.split(":") for part in text.split(",")]
            points = tuple((float(hz), float(db)) for hz, db in parts)
        except ValueError as error:
            raise InputError(f"'{text}' is no filter's shape: write points as HZ:DB,HZ:DB") from error
        return cls(points, sample_rate)

    def __call__(self, samples: int) -> NDArray[np.float64]:
        """Relative to the strongest point. Shape: (samples // 2 + 1,)."""
        hz, db = zip(*self.points, strict=True)
        level = np.interp(np.fft.rfftfreq(samples, 1 / self.sample_rate), hz, db)
        return 10 ** ((level - max(db)) / 20)


@lru_cache(maxsize=8)
def _scaled(response: Callable[[int], NDArray[np.float64]], samples: int) -> NDArray[np.float64]:
    found = np.asarray(response(samples), dtype=np.float64)
    if found.shape != (samples // 2 + 1,) or not np.all((found > 0) & np.isfinite(found)):
        raise InputError(f"a filter for clips of {samples} samples has {samples // 2 + 1} positive gains")
    found = found / found.max()  # squares of what is left neither overflow nor vanish
    if found.min() < 10 ** (-RANGE / 20) * (1 - 1e-9):
        raise InputError(f"a filter's gains span at most {RANGE:g} dB")
    weights = np.full(len(found), 2.0)  # of both conjugates
    weights[0] = 1
    if samples % 2 == 0:
        weights[-1] = 1
    return found / math.sqrt(float(weights @ found**2) / samples)


def _filtered(x: Tensor, gains: NDArray[np.float64]) -> Tensor:
    factors = torch.as_tensor(gains, dtype=x.dtype, device=x.device)
    return torch.fft.irfft(torch.fft.rfft(x) * factors, n=x.shape[-1])
