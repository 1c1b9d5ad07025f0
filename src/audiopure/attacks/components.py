"""Taking the weakest components out of a clip: Fourier bins, or singular spectrum analysis.

Everything is computed in double precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

WINDOW_SHARE = 0.05  # of the clip's length, in Kenansville's code
# Kenansville's code has 3000. The time grows with the cube of the window, and 50 ms of 16 kHz speech hold
# four periods of a voice of 80 Hz: components are as narrow as 20 Hz, finer than any formant
LONGEST_WINDOW = 800
BLOCK = 64  # components that are summed at once


class Components(ABC):
    """One clip as a sum of `count` components, weakest first."""

    count: int

    @abstractmethod
    def weaker(self, strength: float) -> int:
        """How many components an attack of `strength` in [0, 1] removes."""

    @abstractmethod
    def without(self, removed: int) -> Tensor:
        """The clip less its `removed` weakest components. Shape: (T,), float64."""


class Fourier(Components):
    """The bins of the whole clip's Fourier transform.

    Args:
        clip: (T,).
    """

    def __init__(self, clip: Tensor):
        self.length = len(clip)
        self.spectrum = torch.fft.rfft(clip.double())
        self.magnitude, order = self.spectrum.abs().sort()
        self.rank = order.argsort()
        self.count = len(order)

    def weaker(self, strength: float) -> int:
        """Those of a magnitude below `strength` times the largest."""
        return int((self.magnitude < strength * self.magnitude[-1]).sum())

    def without(self, removed: int) -> Tensor:
        kept = torch.where(self.rank < removed, 0, self.spectrum)
        return torch.fft.irfft(kept, n=self.length)


class SingularSpectrum(Components):
    """Singular spectrum analysis (Broomhead & King 1986; Golyandina et al. 2001).

    The rows of the trajectory matrix X (t, L) are the windows of the clip. The component of a right singular
    vector v is X v v^T averaged over its anti-diagonals, that is the valid correlation of the clip with v,
    convolved with v, over the number of windows at each sample. The singular vectors are the eigenvectors of
    X^T X (L, L), so X itself is never formed.

    Args:
        clip: (T,).
        window: L; by default 5 % of the clip and at most LONGEST_WINDOW.
    """

    def __init__(self, clip: Tensor, window: int | None = None):
        self.clip = clip.double()
        length = len(clip)
        self.count = window or max(1, min(int(WINDOW_SHARE * length), LONGEST_WINDOW))
        self.vectors = torch.linalg.eigh(_lagged(self.clip, self.count)).eigenvectors.T
        self.windows = length - self.count + 1
        ramp = torch.arange(1, length + 1, device=clip.device)
        most = min(self.count, self.windows)
        self.weight = torch.minimum(ramp, ramp.flip(0)).clamp(max=most).double()
        self.spectrum = torch.fft.rfft(self.clip)
        self.removed, self.removed_sum = 0, torch.zeros_like(self.clip)

    def weaker(self, strength: float) -> int:
        """The share `strength` of all, but never the strongest."""
        return self.count - max(1, int(self.count * (1 - strength)))

    def without(self, removed: int) -> Tensor:
        # only what changed since the last call: a binary search sums each component about once
        if removed > self.removed:
            self.removed_sum = self.removed_sum + self._sum(self.removed, removed)
        elif removed < self.removed:
            self.removed_sum = self.removed_sum - self._sum(removed, self.removed)
        self.removed = removed
        return self.clip - self.removed_sum

    def _sum(self, first: int, last: int) -> Tensor:
        """Sum of the components first..last-1. Shape: (T,)."""
        length = len(self.clip)
        total = torch.zeros_like(self.spectrum)
        for start in range(first, last, BLOCK):
            v = torch.fft.rfft(self.vectors[start : min(start + BLOCK, last)], n=length)
            projected = torch.fft.irfft(self.spectrum * v.conj(), n=length)
            # beyond the last whole window the correlation wraps around
            projected[:, self.windows :] = 0
            total = total + (torch.fft.rfft(projected) * v).sum(0)
        return torch.fft.irfft(total, n=length) / self.weight


def _lagged(clip: Tensor, window: int) -> Tensor:
    """X^T X of the trajectory matrix X. Shape: (T,) -> (L, L)."""
    windows = len(clip) - window + 1
    size = 2 * len(clip)
    spectrum = torch.fft.rfft(clip, n=size)
    first = torch.fft.rfft(clip[:windows], n=size)
    lagged = clip.new_empty(window, window)
    lagged[0] = torch.fft.irfft(spectrum * first.conj(), n=size)[:window]
    left, right = clip[:window], clip[windows - 1 :]
    for a in range(1, window):
        # the sum over one window less at the start and one more at the end
        lagged[a, 1:] = lagged[a - 1, :-1] - left[a - 1] * left[:-1] + right[a] * right[1:]
        lagged[a, 0] = lagged[0, a]
    return lagged
