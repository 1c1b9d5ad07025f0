"""Numbers of draws at which counts may be looked at, so that sampling stops early without losing confidence.

Every look spends a share of alpha on an exact Clopper-Pearson bound, so that all bounds hold at once with
confidence 1 - alpha (union bound) and the best of them may be used, whenever and for whatever reason sampling
stops. The last look, to which most clips come, has nearly all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from audiopure.errors import InputError
from audiopure.metrics import clopper_pearson_lower

FACTOR = 3.0  # from one look to the next
EARLY = 0.05  # what the looks before the last may spend of alpha, all together


@dataclass(frozen=True)
class Looks:
    """The looks of one certificate.

    Args:
        ends: total draws at each look, growing.
        alpha: chance that any of the bounds fails.
    """

    ends: tuple[int, ...]
    alpha: float

    def __post_init__(self) -> None:
        growing = all(a < b for a, b in zip((0, *self.ends), self.ends, strict=False))
        if not self.ends or not growing:
            raise InputError(f"looks need growing numbers of draws, got {self.ends}")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must lie between 0 and 1, got {self.alpha:g}")

    @classmethod
    def single(cls, n: int, alpha: float) -> Looks:
        """One look at the end: CERTIFY as Cohen et al. have it."""
        return cls((n,), alpha)

    @classmethod
    def growing(cls, n: int, alpha: float, *, first: int = 100, unit: int = 100) -> Looks:
        """Looks at n, n / 3, n / 9, ... down to about `first`, each a multiple of `unit`."""
        ends, end = [n], n / FACTOR
        while end >= first:
            ends.append(max(unit, round(end / unit) * unit))
            end /= FACTOR
        return cls(tuple(sorted({e for e in ends if e <= n})), alpha)

    @property
    def shares(self) -> tuple[float, ...]:
        """What each look may spend; alpha in all."""
        before = len(self.ends) - 1
        if not before:
            return (self.alpha,)
        return (*[EARLY * self.alpha / before] * before, (1 - EARLY) * self.alpha)

    def lower(self, seen: Sequence[int]) -> float:
        """The best lower bound of a share, from successes at the looks so far."""
        looks = zip(seen, self.ends, self.shares, strict=False)
        return max((clopper_pearson_lower(*look) for look in looks), default=0.0)

    def hoped(self, count: int, n: int) -> float:
        """The lower bound at the end of a share that is two standard errors higher than n draws say."""
        share, end = count / n, self.ends[-1]
        # at least one vote of either side, so that no share looks certain
        error = math.sqrt(max(share * (1 - share), 1 / n) / n)
        return clopper_pearson_lower(round(min(1.0, share + 2 * error) * end), end, self.shares[-1])
