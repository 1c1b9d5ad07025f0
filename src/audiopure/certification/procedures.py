"""CERTIFY and PREDICT of Cohen et al. 2019, with early stopping, and a certificate of mean probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from audiopure.certification.bounds import Sums, clopper_pearson_upper
from audiopure.certification.draws import CHUNK, Purpose
from audiopure.certification.laws import Gaussian, Law
from audiopure.certification.looks import Looks
from audiopure.certification.scores import CHOICES
from audiopure.errors import InputError
from audiopure.metrics import clopper_pearson_lower

Array = NDArray[np.float64]
Statistic = Callable[[Tensor], Tensor]  # of the scores (n, C) of some draws


class Ask(Protocol):
    """What a procedure asks about one object."""

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        """A statistic that adds up over draws, of first..last-1, `first` a multiple of 100."""
        ...

    def whole(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        """A statistic of the scores of these draws all together, which does not add up."""
        ...


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
        of: the object, the norm and the unit of the radius; empty where a sampler was asked, whose x it is.
    """

    label: int | None
    radius: float
    p: float
    q: float
    guess: int
    counts: tuple[int, ...]
    n: int
    of: str = ""


class Procedure(Protocol):
    """A way to certify."""

    @property
    def most(self) -> int:
        """Draws of one object, at most."""
        ...

    def check(self, law: Law) -> None:
        """InputError if it knows no certificate under this law."""
        ...

    def __call__(self, ask: Ask, law: Law) -> Certificate: ...


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

    Raises InputError without draws, for alpha outside (0, 1), or a tolerance below 0.
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    tolerance: float | None = None
    pair: bool = False

    def __post_init__(self) -> None:
        check_draws(self.n0, self.n, self.alpha)
        if self.tolerance is not None and self.tolerance < 0:
            raise InputError(f"the tolerance is at least 0, got {self.tolerance:g}")

    @property
    def most(self) -> int:
        """Draws of one object, at most."""
        return self.n0 + self.n

    @property
    def looks(self) -> Looks:
        alpha = self.alpha / 2 if self.pair else self.alpha
        if self.tolerance is None:
            return Looks.single(self.n, alpha)
        return Looks.growing(self.n, alpha, unit=CHUNK)

    def check(self, law: Law) -> None:
        """Every law has a radius for shares of votes."""

    def __call__(self, ask: Ask, law: Law) -> Certificate:
        guess = int(ask.sum("select", 0, self.n0, votes).argmax())
        looks, seen, n = self.looks, [], 0
        counts: Array | None = None
        for end in looks.ends:
            found = ask.sum("estimate", n, end, votes)
            counts, n = found if counts is None else counts + found, end
            seen.append(int(counts[guess]))
            p = looks.lower(seen)
            q = 1 - p
            if self.pair:
                q = min(q, self._others(counts, guess, n, looks.shares[len(seen) - 1]))
            radius = law.radius(p, q)
            if self.tolerance is not None:
                hoped = self._hoped(looks, counts, guess, n, law)
                if not hoped - radius > self.tolerance * law.sigma:
                    break
        assert counts is not None
        label = guess if radius > 0 else None
        return Certificate(label, radius, p, q, guess, tuple(int(k) for k in counts), n)

    def _hoped(self, looks: Looks, counts: Array, guess: int, n: int, law: Law) -> float:
        """The radius at the end, were all shares two standard errors better than they look.

        Any rule that stops early is valid. This one leaves clips that abstain, and those that are settled.
        """
        p = looks.hoped(int(counts[guess]), n)
        second = max((int(k) for label, k in enumerate(counts) if label != guess), default=0)
        return law.radius(p, 1 - looks.hoped(n - second, n) if self.pair else None)

    def _others(self, counts: Array, guess: int, n: int, spent: float) -> float:
        """Upper bound of the largest other share at one look.

        Every label may spend all of it: the largest of the bounds fails only if that of the label fails which
        truly comes second, and this label does not depend on the draws.
        """
        return max(
            (clopper_pearson_upper(int(k), n, spent) for label, k in enumerate(counts) if label != guess),
            default=0.0,
        )


@dataclass(frozen=True)
class Predict:
    """PREDICT: the smoothed classifier's answer, or None where the two top labels cannot be told apart.

    Args:
        n: draws.
        alpha: chance of an answer that is not the smoothed classifier's.

    Raises InputError without draws, or for alpha outside (0, 1).
    """

    n: int = 1000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        check_draws(1, self.n, self.alpha)

    def __call__(self, ask: Ask) -> int | None:
        counts = ask.sum("predict", 0, self.n, votes)
        order = np.argsort(-counts, kind="stable")
        first, second = int(counts[order[0]]), int(counts[order[1]]) if len(counts) > 1 else 0
        certain = binomtest(first, first + second, 0.5).pvalue <= self.alpha
        return int(order[0]) if certain else None


@dataclass(frozen=True)
class CertifyScores:
    """A certificate for the classifier of largest mean probability, by an f-divergence.

    Certified is that the label's mean probability, less the mean of the largest other one, stays positive; so
    the label keeps the largest mean probability. Needs Gaussian noise, and a base whose scores are logits.

    Args:
        bound: a name in `scores.CHOICES`.
        n0: draws that select the label, and as many others that choose the bound's settings.
        n: draws of the estimate.
        alpha: chance that a certificate is wrong.
    """

    bound: str = "hockey-stick"
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if self.bound not in CHOICES:
            raise InputError(f"there is no certificate '{self.bound}'; there are: {', '.join(CHOICES)}.")
        check_draws(self.n0, self.n, self.alpha, least=2)  # a variance takes two

    @property
    def most(self) -> int:
        """Draws of one object."""
        return 2 * self.n0 + self.n

    def check(self, law: Law) -> None:
        if not isinstance(law, Gaussian):
            raise InputError("a certificate of mean probabilities needs Gaussian noise")

    def __call__(self, ask: Ask, law: Law) -> Certificate:
        self.check(law)
        guess = int(ask.sum("select", 0, self.n0, lambda scores: scores.softmax(1).sum(0)).argmax())
        kind, choose = CHOICES[self.bound]

        def chosen(scores: Tensor) -> Tensor:
            found = choose(margins(scores, guess).cpu().numpy(), self.n, self.alpha)
            return torch.tensor(astuple(found), dtype=torch.float64)

        # only numbers are kept of draws: of the pilot's, the settings of the bound that they chose
        bound = kind(*ask.whole("pilot", 0, self.n0, chosen).tolist())

        def unit(scores: Tensor) -> Tensor:
            values = torch.from_numpy(bound.unit(margins(scores, guess).cpu().numpy()))
            tally = votes(scores).double().cpu()
            return torch.cat([values.sum()[None], values.square().sum()[None], tally])

        total, squares, *counts = ask.sum("estimate", 0, self.n, unit).tolist()
        radius = bound.radius(Sums(self.n, total, squares), law.sigma, self.alpha)
        p = clopper_pearson_lower(int(counts[guess]), self.n, self.alpha)  # by itself, not what is certified
        label = guess if radius > 0 else None
        return Certificate(label, radius, p, 1 - p, guess, tuple(int(k) for k in counts), self.n)


def votes(scores: Tensor) -> Tensor:
    """How often each label has the largest score. Shape: (n, C) -> (C,)."""
    return torch.bincount(scores.argmax(1), minlength=scores.shape[1])


def margins(scores: Tensor, label: int) -> Tensor:
    """Probability of a label less the largest other one. Shape: (n, C) -> (n,) in [-1, 1]."""
    chances = scores.double().softmax(1)
    others = chances.clone()
    others[:, label] = -torch.inf
    return (chances[:, label] - others.amax(1)).clamp(-1, 1)


def check_draws(n0: int, n: int, alpha: float, *, least: int = 1) -> None:
    """InputError without draws to select, for fewer than `least` to estimate, or for alpha outside (0, 1)."""
    if n0 < 1 or n < least:
        raise InputError(
            f"a certificate needs draws, n0 of 1 or more and n of {least}; got n0={n0} and n={n}"
        )
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha:g}")
