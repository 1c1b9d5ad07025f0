"""Confidence bounds of a proportion and of a mean, from numbers that add up over batches of draws.

All are one-sided and hold for any number of draws that was fixed beforehand; `looks` spends one confidence on
several numbers. `metrics.clopper_pearson_lower` is the lower bound of a proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from audiopure.errors import InputError
from audiopure.metrics import clopper_pearson_lower

Method = Literal["hoeffding", "bernstein"]


def clopper_pearson_upper(k: int, n: int, alpha: float = 0.001) -> float:
    """The largest proportion that k successes in n trials leave possible at confidence 1 - alpha."""
    return 1.0 - clopper_pearson_lower(n - k, n, alpha)


@dataclass(frozen=True)
class Sums:
    """What is kept of values in [0, 1]: how many, their sum, and the sum of their squares."""

    n: int
    total: float
    squares: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Sums:
        """Of an array (n,)."""
        return cls(len(values), float(values.sum()), float(np.square(values).sum()))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Of the sample, with n - 1."""
        return max(0.0, (self.squares - self.total**2 / self.n) / (self.n - 1))

    def mirrored(self) -> Sums:
        """The sums of 1 - value."""
        return Sums(self.n, self.n - self.total, self.n - 2 * self.total + self.squares)


def mean_lower(sums: Sums, alpha: float, method: Method = "bernstein") -> float:
    """A value that the mean of independent values in [0, 1] exceeds with confidence 1 - alpha, at least 0.

    "hoeffding": mean - sqrt(log(1 / alpha) / 2n) (Hoeffding 1963). "bernstein": mean - sqrt(2 V log(2 /
    alpha) / n) - 7 log(2 / alpha) / (3 (n - 1)) with the sample variance V (Maurer & Pontil 2009, theorem 4),
    tighter where the values hardly vary. The method must be chosen before the values are seen.

    Raises InputError for fewer than two values, an alpha outside (0, 1) or an unknown method.
    """
    if sums.n < 2 or not 0 < alpha < 1:
        raise InputError(f"a bound of a mean needs two values and 0 < alpha < 1, got {sums.n} and {alpha:g}")
    if method == "hoeffding":
        return max(0.0, sums.mean - math.sqrt(math.log(1 / alpha) / (2 * sums.n)))
    if method != "bernstein":
        raise InputError(f"there is no bound '{method}'; there are: hoeffding, bernstein.")
    log = math.log(2 / alpha)
    reach = math.sqrt(2 * sums.variance * log / sums.n) + 7 * log / (3 * (sums.n - 1))
    return max(0.0, sums.mean - reach)


def mean_upper(sums: Sums, alpha: float, method: Method = "bernstein") -> float:
    """As `mean_lower`, from above; at most 1."""
    return 1.0 - mean_lower(sums.mirrored(), alpha, method)
