"""A claim to be somebody enrolled, as a procedure like those of `procedures`: accepted, rejected, neither."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiopure.certification.bounds import Method, Sums
from audiopure.certification.embeddings import check_law, check_threshold, decided, shares, unit
from audiopure.certification.laws import Law
from audiopure.certification.procedures import Ask, Certificate, check_draws
from audiopure.metrics import clopper_pearson_lower

DECISIONS = ("accept", "reject")  # the labels of a certificate


@dataclass(frozen=True, eq=False)
class CertifyClaim:
    """Accept or reject by the mean cosine of noisy embeddings with the enrolled one, of a base that embeds.

    Not by the cosine of the mean embedding, which lies further from 0: that mean is shorter than 1.

    Args:
        enrolled: (D,), the claimed speaker's embedding or centroid, of any length but 0.
        threshold: mean cosine from which on a claim is accepted.
        n: draws. None select: acceptance and rejection are bounded on the same ones, each for half of alpha.
        alpha: chance that a certificate is wrong.
        method: of the bounds, see `bounds.mean_lower`.

    The certificate's counts are of draws whose own cosine would be accepted or rejected, and p bounds the
    share of these by itself; the radius is the mean's. Raises InputError for fewer than two draws, an alpha
    outside (0, 1), a threshold not strictly between -1 and 1, and under other noise than Gaussian.
    """

    enrolled: NDArray[np.float64]
    threshold: float
    n: int = 10_000
    alpha: float = 0.001
    method: Method = "bernstein"

    def __post_init__(self) -> None:
        check_draws(1, self.n, self.alpha, least=2)  # a variance takes two
        check_threshold(self.threshold)

    @property
    def most(self) -> int:
        """Draws of one object."""
        return self.n

    def check(self, law: Law) -> None:
        check_law(law)

    def __call__(self, ask: Ask, law: Law) -> Certificate:
        self.check(law)
        direction = self.enrolled / np.linalg.norm(self.enrolled)

        def tallied(found: Tensor) -> Tensor:
            cosines = unit(found) @ direction
            values = shares(cosines)
            accepted = int((cosines >= self.threshold).sum())
            return torch.tensor([values.sum(), np.square(values).sum(), accepted], dtype=torch.float64)

        total, squares, accepted = ask.sum("estimate", 0, self.n, tallied).tolist()
        sums = Sums(self.n, total, squares)
        found = decided(sums, self.threshold, law.sigma, self.alpha, self.method)
        guess = 0 if found.value >= self.threshold else 1
        counts = (int(accepted), self.n - int(accepted))
        p = clopper_pearson_lower(counts[guess], self.n, self.alpha)
        label = None if found.decision is None else guess
        return Certificate(label, found.radius, p, 1 - p, guess, counts, self.n)
