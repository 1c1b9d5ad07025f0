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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor, nn

from audiopure.certification.bounds import Method, Sums, mean_lower, mean_upper
from audiopure.certification.laws import Gaussian, Law
from audiopure.certification.procedures import Ask, Certificate, check_draws
from audiopure.errors import InputError
from audiopure.metrics import clopper_pearson_lower

UNIT = 5e-3  # how far from 1 the length that an encoder gives may lie, in bfloat16 as well; it is made 1
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
    check_threshold(threshold)
    return decided(_sums(cosines), threshold, sigma, alpha, method)


def decided(sums: Sums, threshold: float, sigma: float, alpha: float, method: Method) -> EmbeddingCertificate:
    """As `verify`, from the sums of (1 + cosine) / 2."""
    level, value = (1 + threshold) / 2, 2 * sums.mean - 1
    accepted = mean_radius(mean_lower(sums, alpha / 2, method), sigma, level)
    if accepted > 0:
        return EmbeddingCertificate("accept", accepted, value, sums.n)
    rejected = mean_radius(1 - mean_upper(sums, alpha / 2, method), sigma, 1 - level)
    if rejected > 0:
        return EmbeddingCertificate("reject", rejected, value, sums.n)
    return EmbeddingCertificate(None, 0.0, value, sums.n)


def check_law(law: Law) -> None:
    """InputError for noise that is not white and Gaussian."""
    if not isinstance(law, Gaussian):
        raise InputError("a certificate of mean embeddings needs Gaussian noise")


def check_threshold(threshold: float) -> None:
    """InputError for a threshold of cosines that is not strictly between -1 and 1."""
    if not -1 < threshold < 1:
        raise InputError(f"a threshold of cosines lies between -1 and 1, got {threshold:g}")


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
        if len(np.unique(c, axis=0)) < len(c):
            raise InputError("two speakers have the same centroid")
        object.__setattr__(self, "centroids", c)

    def nearest(self, embedding: NDArray[np.float64]) -> int:
        """The speaker whose centroid is nearest. Shape: (D,). InputError for another dimension."""
        self._check(embedding)
        return int(np.square(self.centroids - embedding).sum(1).argmin())

    def margins(self, embeddings: NDArray[np.float64], speaker: int) -> NDArray[np.float64]:
        """Values in [0, 1] of each embedding against each rival, whose means `levels` has.

        The speaker's centroid c is nearer to m than a rival's d if <m, c - d> > (|c|^2 - |d|^2) / 2; the
        value is 1/2 + <f, c - d> / 2 |c - d|. Embeddings have length 1 or less.

        Shape: (n, D) -> (n, S - 1). Raises InputError for longer embeddings, or of another dimension.
        """
        apart, lengths = self._apart(speaker)
        self._check(embeddings)
        if not np.linalg.norm(embeddings, axis=1).max() <= 1 + ROUNDING:
            raise InputError("identification needs embeddings of length 1, as `embed` gives them")
        values = 0.5 + embeddings @ (apart / lengths[:, None]).T / 2
        return np.clip(values, 0, 1)

    def levels(self, speaker: int) -> NDArray[np.float64]:
        """What the mean of the values of `margins` must exceed. Shape: (S - 1,)."""
        c, others = self.centroids[speaker], np.delete(self.centroids, speaker, axis=0)
        offset = (c @ c - np.square(others).sum(1)) / 2
        return 0.5 + offset / (2 * self._apart(speaker)[1])

    def votes(self, embeddings: NDArray[np.float64]) -> NDArray[np.int64]:
        """How often each speaker's centroid is the nearest. Shape: (n, D) -> (S,)."""
        nearest = [self.nearest(embedding) for embedding in embeddings]
        return np.bincount(nearest, minlength=len(self.centroids))

    def _check(self, embeddings: NDArray[np.float64]) -> None:
        found, own = embeddings.shape[-1], self.centroids.shape[1]
        if found != own:
            raise InputError(f"the embeddings have {found} dimensions and the centroids {own}")

    def _apart(self, speaker: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """From each rival's centroid to the speaker's, and how far. Shape: (S - 1, D), (S - 1,)."""
        apart = self.centroids[speaker] - np.delete(self.centroids, speaker, axis=0)
        return apart, np.linalg.norm(apart, axis=1)


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
    other draws. The radius is the least over all rivals.
    """
    speaker = gallery.nearest(pilot.mean(0))
    sums = [Sums.of(column) for column in gallery.margins(embeddings, speaker).T]
    levels = gallery.levels(speaker).tolist()
    closest = min(s.mean - level for s, level in zip(sums, levels, strict=True))
    radius = radius_to_rivals(sums, levels, sigma, alpha, method)
    return EmbeddingCertificate(speaker if radius > 0 else None, radius, closest, len(embeddings))


def radius_to_rivals(
    sums: Sequence[Sums], levels: Sequence[float], sigma: float, alpha: float, method: Method
) -> float:
    """The least L2 radius over all rivals, from the values and levels of `Gallery.margins`.

    Holds with confidence 1 - alpha, and each rival's bound may spend all of it: the least radius is too large
    only if that of the truly nearest rival is, and who that is does not depend on the draws.
    """
    return min(
        mean_radius(mean_lower(s, alpha, method), sigma, level) if level > 0 else math.inf
        for s, level in zip(sums, levels, strict=True)
    )


@dataclass(frozen=True, eq=False)
class CertifyIdentity:
    """Identification by the mean embedding as a procedure, like those of `procedures`, of a base that embeds.

    Args:
        gallery: the enrolled speakers, in the order of the labels.
        n0: draws that select the speaker.
        n: draws of the estimate.
        alpha: chance that a certificate is wrong.
        method: of the bounds, see `bounds.mean_lower`.

    The certificate's counts are of the nearest centroid draw by draw, and p bounds their share by itself; the
    radius is the mean's. Raises InputError for fewer draws than one and two, an alpha outside
    (0, 1), and under other noise than Gaussian.
    """

    gallery: Gallery
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    method: Method = "bernstein"

    def __post_init__(self) -> None:
        check_draws(self.n0, self.n, self.alpha, least=2)  # a variance takes two

    @property
    def most(self) -> int:
        """Draws of one object."""
        return self.n0 + self.n

    def check(self, law: Law) -> None:
        check_law(law)

    def __call__(self, ask: Ask, law: Law) -> Certificate:
        self.check(law)
        total = ask.sum("select", 0, self.n0, lambda found: torch.from_numpy(unit(found).sum(0)))
        speaker, others = self.gallery.nearest(total / self.n0), len(self.gallery.centroids) - 1

        def tallied(found: Tensor) -> Tensor:
            embeddings = unit(found)
            values = self.gallery.margins(embeddings, speaker)
            parts = values.sum(0), np.square(values).sum(0), self.gallery.votes(embeddings)
            return torch.from_numpy(np.concatenate(parts))

        sums, squares, votes = np.split(ask.sum("estimate", 0, self.n, tallied), [others, 2 * others])
        known = [Sums(self.n, *pair) for pair in zip(sums.tolist(), squares.tolist(), strict=True)]
        levels = self.gallery.levels(speaker).tolist()
        radius = radius_to_rivals(known, levels, law.sigma, self.alpha, self.method)
        counts = tuple(int(k) for k in votes)
        p = clopper_pearson_lower(counts[speaker], self.n, self.alpha)
        return Certificate(speaker if radius > 0 else None, radius, p, 1 - p, speaker, counts, self.n)


def embed(encoder: nn.Module, noisy: Tensor) -> NDArray[np.float64]:
    """Embeddings of noisy waveforms, of length 1 in double precision. Shape: (n, T) -> (n, D).

    Raises InputError for an encoder that does not give them length 1, but for rounding in its own precision.
    """
    with torch.inference_mode():
        return unit(encoder(noisy))


def unit(embeddings: Tensor) -> NDArray[np.float64]:
    """Made as long as 1 in double precision. Shape: (n, D) -> (n, D). InputError if they were not."""
    found = embeddings.double().cpu().numpy()
    lengths = np.linalg.norm(found, axis=-1, keepdims=True)
    if found.ndim != 2 or not np.abs(lengths - 1).max() <= UNIT:
        raise InputError("a speaker encoder must return one embedding of length 1 for each waveform")
    return found / lengths


def _sums(cosines: NDArray[np.float64]) -> Sums:
    if len(cosines) < 2 or not np.abs(cosines).max() <= 1 + ROUNDING:
        raise InputError("cosines lie in [-1, 1], and a bound needs two of them")
    return Sums.of(shares(cosines))


def shares(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines as values in [0, 1], of whose mean a quantile is bounded. Shape: (n,) -> (n,)."""
    return np.clip((1 + cosines) / 2, 0, 1)
