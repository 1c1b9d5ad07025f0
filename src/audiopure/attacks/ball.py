"""The admissible set of an attack: a norm ball around each clip, cut to full scale.

Budgets hold exactly, not up to rounding: in the precision of the waveform, and for 16-bit samples.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from audiopure.errors import InputError
from audiopure.noise import NoiseSource

STEP16 = 2.0**-15  # distance between neighbouring values of a 16-bit sample


class Ball(ABC):
    """A ball of radius `eps` around `clean` (B, T) within [-1, 1]; points equal `clean` beyond `lengths`."""

    def __init__(self, eps: float, clean: Tensor, lengths: Tensor | None):
        self.eps = eps
        self.clean = clean
        self.mask = None
        if lengths is not None:
            self.mask = torch.arange(clean.shape[-1], device=clean.device) < lengths.to(clean.device)[:, None]

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A point of the set near x. Shape: (B, T) -> (B, T)."""

    @abstractmethod
    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of length 1 in the norm of the ball that climbs fastest. Shape: (B, T) -> (B, T)."""

    @abstractmethod
    def random(self, noise: NoiseSource) -> Tensor:
        """A random point of the set, from draw 0 of `noise`. Shape: (B, T)."""

    @abstractmethod
    def round16(self, x: Tensor) -> Tensor:
        """16-bit samples near x that stay within the budget; a sample without such a value stays clean.

        Shape: (B, T) -> (B, T).
        """

    def rows(self, index: Tensor) -> Ball:
        """The set around some clips of the batch. Shape: index (k,)."""
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[index])
        return part

    def _inside(self, x: Tensor) -> Tensor:
        return x if self.mask is None else torch.where(self.mask, x, self.clean)

    def _normal(self, noise: NoiseSource) -> Tensor:
        batch, length = self.clean.shape
        z = noise.normal((batch, length), draw=0, device=self.clean.device, dtype=self.clean.dtype)
        return z if self.mask is None else z * self.mask


class Linf(Ball):
    """Every sample within eps of the clean one."""

    def __init__(self, eps: float, clean: Tensor, lengths: Tensor | None):
        super().__init__(eps, clean, lengths)
        # the sum in double, then the nearest value of the waveform's precision that is not beyond it
        low, high = clean.double() - eps, clean.double() + eps
        infinity = clean.new_tensor(math.inf)
        self.low, self.high = low.to(clean.dtype), high.to(clean.dtype)
        self.low = torch.where(self.low.double() < low, torch.nextafter(self.low, infinity), self.low)
        self.high = torch.where(self.high.double() > high, torch.nextafter(self.high, -infinity), self.high)
        self.low, self.high = self.low.clamp(min=-1), self.high.clamp(max=1)

    def project(self, x: Tensor) -> Tensor:
        return self._inside(x.maximum(self.low).minimum(self.high))

    def ascent(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def random(self, noise: NoiseSource) -> Tensor:
        uniform = torch.special.ndtr(self._normal(noise)) * 2 - 1
        return self.project(self.clean + self.eps * uniform)

    def round16(self, x: Tensor) -> Tensor:
        q = _round16(x)
        q = torch.where(q > self.high, q - STEP16, torch.where(q < self.low, q + STEP16, q))
        return self._inside(torch.where((q >= self.low) & (q <= self.high), q, self.clean))


class L2(Ball):
    """Euclidean distance over the clip at most eps."""

    def project(self, x: Tensor) -> Tensor:
        return self._shrunk(x, lambda point: point)

    def ascent(self, gradient: Tensor) -> Tensor:
        if self.mask is not None:
            gradient = gradient * self.mask
        return unit(gradient)

    def random(self, noise: NoiseSource) -> Tensor:
        z = self._normal(noise)
        length = noise.fresh(0).normal((len(z), 1), draw=0, device=z.device, dtype=z.dtype)
        return self.project(self.clean + self.eps * torch.special.ndtr(length) * self.ascent(z))

    def round16(self, x: Tensor) -> Tensor:
        return self._shrunk(x, _round16)

    def _shrunk(self, x: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        """x, or for clips beyond the budget the farthest point towards it that keeps it after `rounded`."""
        change = x - self.clean
        scale = torch.ones_like(change[:, :1], dtype=torch.float64)
        over, point = scale > 0, self.clean
        for attempt in range(8):
            moved = torch.where(scale == 1, x, self.clean + (scale * change).to(x.dtype))
            point = self._inside(rounded(moved.clamp(-1, 1)))
            norm = (point.double() - self.clean.double()).norm(dim=-1, keepdim=True)
            over = norm > self.eps
            if not bool(over.any()):
                return point
            # the norm of rounded points jitters: each attempt stays farther inside
            scale = torch.where(over, scale * (self.eps / norm) * (1 - 10.0 ** (attempt - 8)), scale)
        return torch.where(over, self.clean, point)


class Free(Ball):
    """Anything within full scale, for attacks bounded by something other than a norm."""

    def project(self, x: Tensor) -> Tensor:
        return self._inside(x.clamp(-1, 1))

    def ascent(self, gradient: Tensor) -> Tensor:
        return unit(gradient if self.mask is None else gradient * self.mask)

    def random(self, noise: NoiseSource) -> Tensor:
        return self.project(self._normal(noise))

    def round16(self, x: Tensor) -> Tensor:
        return self._inside(_round16(x))


def ball(norm: str, eps: float, clean: Tensor, lengths: Tensor | None = None) -> Ball:
    """The ball of a norm, "linf", "l2" or "free" (of infinite radius).

    Raises InputError for another norm or a radius that does not fit it.
    """
    balls = {"linf": Linf, "l2": L2, "free": Free}
    if norm not in balls:
        raise InputError(f"there is no norm '{norm}'; there are: {', '.join(balls)}")
    if not eps > 0 or (eps == math.inf) != (norm == "free"):
        raise InputError(f"a budget must be positive and finite, got {eps}")
    return balls[norm](eps, clean, lengths)


def unit(x: Tensor) -> Tensor:
    """Each row scaled to Euclidean length 1, zero rows as they are. Shape: (B, T) -> (B, T)."""
    # the largest sample first, so that squares of small values do not vanish
    x = x / x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _round16(x: Tensor) -> Tensor:
    return (x / STEP16).round().clamp(-1 / STEP16, 1 / STEP16 - 1) * STEP16
