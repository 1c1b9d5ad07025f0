"""Randomized smoothing: CERTIFY and PREDICT of Cohen et al. 2019, with early stopping.

The smoothed classifier g(x) is the label that a base classifier gives most often to x plus noise. The base is
any function of the noisy object, random or not: g depends on chances alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor, nn

from audiopure.certification.bounds import clopper_pearson_upper
from audiopure.certification.draws import CHUNK, Draws, Purpose
from audiopure.certification.laws import Law
from audiopure.certification.looks import Looks
from audiopure.defended import takes
from audiopure.errors import InputError
from audiopure.noise import NoiseSource

Counts = NDArray[np.int64]  # votes for each label
# votes of draws first..last-1 for a purpose; an engine may know some of them already
Vote = Callable[[Purpose, int, int], Counts]


class Certificate(NamedTuple):
    """What is known of the smoothed classifier at one object, with confidence 1 - alpha.

    Attributes:
        label: its answer, None where it abstains.
        radius: no change below it in the law's norm changes the answer; 0 where it abstains.
        p: lower bound of the label's share of votes.
        q: upper bound of any other's.
        guess: the label that the selection chose, abstention or not.
        counts: votes of the draws that estimate.
        n: how many of these there were.
    """

    label: int | None
    radius: float
    p: float
    q: float
    guess: int
    counts: tuple[int, ...]
    n: int


@dataclass(frozen=True)
class Certify:
    """CERTIFY: select a label on n0 draws, bound its share on fresh ones.

    Args:
        n0: draws of the selection.
        n: draws of the estimate, at most.
        alpha: chance that a certificate is wrong.
        tolerance: stop early once no more than this many sigma of radius are to be expected from going on;
            None draws all n and looks once, as Cohen et al. do.
        pair: also bound the shares of all other labels, for half of alpha, where Cohen et al. give them
            1 - p. Helps where errors spread over many labels.

    Raises InputError for draws that are not multiples of 100, n below n0, or alpha outside (0, 1).
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    tolerance: float | None = None
    pair: bool = False

    def __post_init__(self) -> None:
        if self.n0 < 1 or self.n < 1:
            raise InputError(f"a certificate needs draws, got n0={self.n0} and n={self.n}")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must lie between 0 and 1, got {self.alpha:g}")
        if self.tolerance is not None and self.tolerance < 0:
            raise InputError(f"the tolerance is at least 0, got {self.tolerance:g}")

    @property
    def looks(self) -> Looks:
        alpha = self.alpha / 2 if self.pair else self.alpha
        if self.tolerance is None:
            return Looks.single(self.n, alpha)
        return Looks.growing(self.n, alpha, unit=CHUNK)

    def __call__(self, vote: Vote, law: Law) -> Certificate:
        guess = int(vote("select", 0, self.n0).argmax())
        looks, seen, n = self.looks, [], 0
        counts: Counts | None = None
        for end in looks.ends:
            found = vote("estimate", n, end)
            counts, n = found if counts is None else counts + found, end
            seen.append(int(counts[guess]))
            if self.tolerance is None or not looks.worth_going_on(seen, self.tolerance):
                break
        assert counts is not None
        p = looks.lower(seen)
        q = min(1 - p, self._others(counts, guess, n, looks)) if self.pair else 1 - p
        radius = law.radius(p, q)
        label = guess if radius > 0 else None
        return Certificate(label, radius, p, q, guess, tuple(counts.tolist()), n)

    def _others(self, counts: Counts, guess: int, n: int, looks: Looks) -> float:
        """Upper bound of every other share at the last look, all labels and looks sharing half of alpha."""
        share = looks.share / max(1, len(counts) - 1)
        return max(
            (clopper_pearson_upper(int(k), n, share) for label, k in enumerate(counts) if label != guess),
            default=0.0,
        )


@dataclass(frozen=True)
class Predict:
    """PREDICT: the smoothed classifier's answer, or None where the two top labels cannot be told apart.

    Args:
        n: draws.
        alpha: chance of an answer that is not the smoothed classifier's.
    """

    n: int = 1000
    alpha: float = 0.001

    def __call__(self, vote: Vote) -> int | None:
        counts = vote("predict", 0, self.n)
        order = np.argsort(-counts, kind="stable")
        first, second = int(counts[order[0]]), int(counts[order[1]]) if len(counts) > 1 else 0
        certain = binomtest(first, first + second, 0.5).pvalue <= self.alpha
        return int(order[0]) if certain else None


@dataclass(frozen=True)
class Sampler:
    """Asks the base classifier about noisy versions of one object.

    Args:
        base: noisy objects (n, ...) to scores (n, C), of which the largest votes; it gets `noise` if its
            `forward` names it.
        law: of the smoothing noise.
        x: the object, without a batch axis.
        seed, item: of the draws.
        rows: how many noisy versions go through the base at once.
    """

    base: nn.Module
    law: Law
    x: Tensor
    seed: int
    item: int
    rows: int = 64

    def __call__(self, purpose: Purpose, first: int, last: int) -> Counts:
        """Votes of draws first..last-1; `first` is a multiple of 100."""
        total: Tensor | None = None
        for scores in self.scores(purpose, first, last):
            votes = torch.bincount(scores.argmax(1), minlength=scores.shape[1])
            total = votes if total is None else total + votes
        if total is None:
            raise InputError(f"there are no draws from {first} to {last}")
        return total.cpu().numpy().astype(np.int64)

    def scores(self, purpose: Purpose, first: int, last: int):
        """Scores (rows, C) of the base, batch by batch."""
        draws = Draws(self.seed, self.item, purpose)
        with torch.inference_mode():
            for begin in range(first, last, self._whole):
                count = min(self._whole, last - begin)
                normal = draws.normal(begin, count, tuple(self.x.shape), self.x.device).to(self.x.dtype)
                noisy = self.x + self.law.noise(normal)
                base = draws.base(begin, count)
                for k in range(0, count, self.rows):
                    part = noisy[k : k + self.rows]
                    yield ask(self.base, part, base.rows(range(k, k + len(part))))

    @property
    def _whole(self) -> int:
        """Whole chunks that fill a batch."""
        return max(1, self.rows // CHUNK) * CHUNK


def ask(base: nn.Module, noisy: Tensor, noise: NoiseSource) -> Tensor:
    """Scores of the base for noisy objects. Shape: (n, ...) -> (n, C).

    Raises InputError for scores of another shape, or that are not finite.
    """
    scores = base(noisy, noise=noise) if takes(base, "noise") else base(noisy)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(noisy):
        raise InputError("a base classifier returns one row of scores for each noisy object")
    if not bool(torch.isfinite(scores).all()):
        raise InputError("the base classifier returned scores that are not finite")
    return scores
