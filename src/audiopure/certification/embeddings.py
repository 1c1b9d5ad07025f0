"""Certificates for speaker models: accepting, rejecting and identifying by a smoothed embedding.

The base maps a waveform to an embedding f of length 1; the smoothed embedding is its mean under Gaussian
noise. A decision that rests on inner products of it is certified through values in [0, 1], whose mean has a
quantile that changes by at most 1 / sigma per unit of L2 (Salman et al. 2019; Korzh et al. 2025).

    accept    mean <f, e> >= threshold, e the enrolled embedding of length 1
    reject    mean <f, e> < threshold
    identify  the speaker whose centroid is nearest to the mean embedding, centroids of any length
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor, nn

from audiopure.certification.bounds import Method, Sums, mean_lower, mean_upper
from audiopure.errors import InputError

UNIT = 1e-3  # how far from 1 the length that an encoder gives may lie; it is made 1
ROUNDING = 1e-9  # of an inner product in double precision


class EmbeddingCertificate(NamedTuple):
    """A decision about one clip, with confidence 1 - alpha.

    Attributes:
        decision: "accept", "reject", the number of a speaker, or None where it abstains.
        radius: no change of the clip below it in L2 changes the decision; 0 where it abstains.
        value: mean over draws of what decides: the cosine, or the margin to the nearest rival.
        n: draws of the estimate.
    """

    decision: Literal["accept", "reject"] | int | None
    radius: float
    value: float
    n: int


def mean_radius(low: float, sigma: float, threshold: float = 0.5) -> float:
    """L2 radius within which a mean of values in [0, 1], at least `low` here, stays above `threshold`."""
    if low <= threshold:
        return 0.0
    return sigma * float(ndtri(low) - ndtri(threshold))


def verify(
    cosines: NDArray[np.float64],
    threshold: float,
    sigma: float,
    *,
    alpha: float = 0.001,
    method: Method = "bernstein",
) -> EmbeddingCertificate:
    """Accept or reject one clip, from the cosines of its noisy embeddings with the enrolled one.

    Both bounds hold at once with confidence 1 - alpha.

    Shape: cosines (n,). Raises InputError for values outside [-1, 1], fewer than two, or a threshold not
    strictly between -1 and 1.
    """
    if not -1 < threshold < 1:
        raise InputError(f"a threshold of cosines lies between -1 and 1, got {threshold:g}")
    sums, level = _sums(cosines), (1 + threshold) / 2
    value = 2 * sums.mean - 1
    accepted = mean_radius(mean_lower(sums, alpha / 2, method), sigma, level)
    if accepted > 0:
        return EmbeddingCertificate("accept", accepted, value, sums.n)
    rejected = mean_radius(1 - mean_upper(sums, alpha / 2, method), sigma, 1 - level)
    if rejected > 0:
        return EmbeddingCertificate("reject", rejected, value, sums.n)
    return EmbeddingCertificate(None, 0.0, value, sums.n)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The enrolled speakers: centroids (S, D), which need not have length 1.

    Raises InputError for fewer than two, values that are not finite, or two that are equal.
    """

    centroids: NDArray[np.float64]

    def __post_init__(self) -> None:
        c = np.asarray(self.centroids, dtype=np.float64)
        if c.ndim != 2 or len(c) < 2 or not np.isfinite(c).all():
            raise InputError("identification needs the centroids of two speakers or more")
        object.__setattr__(self, "centroids", c)

    def nearest(self, embedding: NDArray[np.float64]) -> int:
        """The speaker whose centroid is nearest. Shape: (D,)."""
        return int(np.square(self.centroids - embedding).sum(1).argmin())

    def margins(self, embeddings: NDArray[np.float64], speaker: int) -> tuple[NDArray[np.float64], ...]:
        """Values in [0, 1] of each embedding against each rival, and the level their mean must exceed.

        The speaker's centroid c is nearer to m than a rival's d if <m, c - d> > (|c|^2 - |d|^2) / 2; the
        value is 1/2 + <f, c - d> / 2 |c - d|. Embeddings have length 1 or less.

        Shape: (n, D) -> (n, S - 1), (S - 1,). Raises InputError for longer embeddings, or if a rival has the
        same centroid.
        """
        c = self.centroids[speaker]
        others = np.delete(self.centroids, speaker, axis=0)
        apart = c - others
        lengths = np.linalg.norm(apart, axis=1)
        if lengths.min() == 0:
            raise InputError("two speakers have the same centroid")
        if not np.linalg.norm(embeddings, axis=1).max() <= 1 + ROUNDING:
            raise InputError("identification needs embeddings of length 1, as `embed` gives them")
        values = 0.5 + embeddings @ (apart / lengths[:, None]).T / 2
        offset = (c @ c - np.square(others).sum(1)) / 2
        return np.clip(values, 0, 1), 0.5 + offset / (2 * lengths)


def identify(
    pilot: NDArray[np.float64],
    embeddings: NDArray[np.float64],
    gallery: Gallery,
    sigma: float,
    *,
    alpha: float = 0.001,
    method: Method = "bernstein",
) -> EmbeddingCertificate:
    """Name the speaker of one clip, from embeddings (n, D) of its noisy versions.

    The speaker is chosen on `pilot`; against every rival the mean is bounded on `embeddings`, which must be
    other draws, at alpha / (S - 1). The radius is the least over all rivals.
    """
    speaker = gallery.nearest(pilot.mean(0))
    values, levels = gallery.margins(embeddings, speaker)
    share = alpha / values.shape[1]
    sums = [Sums.of(column) for column in values.T]
    radii = [
        mean_radius(mean_lower(s, share, method), sigma, level) if level > 0 else math.inf
        for s, level in zip(sums, levels.tolist(), strict=True)
    ]
    closest = min(s.mean - level for s, level in zip(sums, levels.tolist(), strict=True))
    radius = min(radii)
    return EmbeddingCertificate(speaker if radius > 0 else None, radius, closest, len(embeddings))


def embed(encoder: nn.Module, noisy: Tensor) -> NDArray[np.float64]:
    """Embeddings of noisy waveforms, of length 1 in double precision. Shape: (n, T) -> (n, D).

    Raises InputError for an encoder that does not give them length 1, but for rounding in its own precision.
    """
    with torch.inference_mode():
        found = encoder(noisy).double().cpu().numpy()
    lengths = np.linalg.norm(found, axis=-1, keepdims=True)
    if found.ndim != 2 or not np.abs(lengths - 1).max() <= UNIT:
        raise InputError("a speaker encoder must return one embedding of length 1 for each waveform")
    return found / lengths


def _sums(cosines: NDArray[np.float64]) -> Sums:
    if len(cosines) < 2 or not np.abs(cosines).max() <= 1 + ROUNDING:
        raise InputError("cosines lie in [-1, 1], and a bound needs two of them")
    return Sums.of(np.clip((1 + cosines) / 2, 0, 1))
