"""From the answers of fresh passes to the four accuracies of a report card."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from audiopure.evaluation.card import Metrics, Proportion, Spread
from audiopure.metrics import clopper_pearson

Answers = Sequence[Sequence[int]]  # of each clip, the class heard in each pass


def proportion(count: float, n: int) -> Proportion:
    """A share of n clips. A count that is not whole gets the interval from the whole ones around it."""
    low, _ = _interval(math.floor(count + 1e-9), n)
    _, high = _interval(math.ceil(count - 1e-9), n)
    return Proportion(value=count / n, low=low, high=high, n=n)


_interval = lru_cache(maxsize=None)(clopper_pearson)  # a card asks for the same few again and again


def metrics(answers: Answers, targets: Sequence[int]) -> Metrics:
    """The four accuracies. Every clip needs the same number of passes, at least one, and there be clips."""
    n, passes = len(answers), len(answers[0])
    right = [sum(a == target for a in given) for given, target in zip(answers, targets, strict=True)]
    votes = [vote(given) == target for given, target in zip(answers, targets, strict=True)]
    first = [given[0] == target for given, target in zip(answers, targets, strict=True)]
    return Metrics(
        one_shot=proportion(sum(first), n),
        average=proportion(sum(right) / passes, n),
        worst=proportion(sum(count == passes for count in right), n),
        vote=proportion(sum(votes), n),
        passes=passes,
    )


def vote(answers: Sequence[int]) -> int:
    """The class most passes hear, the smallest of equals."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median and outer deciles of the values that exist and are finite; None if there are none."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return None
    low, median, high = (float(q) for q in np.quantile(known, [0.1, 0.5, 0.9]))
    return Spread(median=median, low=low, high=high, n=len(known))
