"""Paired comparison of two evaluations, clip by clip.

A clip's share is the share of its fresh passes that are right; under attack, that of the counting attack that
leaves it least, of those that both systems met with it: one that met more of them would look weaker for it.
Clips are the units: passes of a clip never count as further evidence.

`p`: exact two-sided sign-flip test of the difference of average accuracy. If both systems were equal, each
clip's difference would be as likely as its negative; p is the share of all 2^n choices of signs whose sum is
at least as far from zero. For systems of one pass this is McNemar's exact test.

Interval: mean per-clip difference of the clips and of two more, one gained and one lost, plus and minus 1.96
standard errors. For systems of one pass this is the adjusted Wald interval of Bonett & Price (2012, "Adjusted
Wald confidence interval for a difference of binomial proportions based on paired data", Journal of
Educational and Behavioral Statistics 37). It is not empty where no clip differs. Several columns are
several tests; nothing corrects for their number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from pydantic import computed_field

from audiopure.errors import InputError
from audiopure.evaluation.card import CLEAN, Card, Record, Row
from audiopure.evaluation.unlike import unlike

LEVEL = 0.05
Z = 1.959964  # standard normal quantile of 97.5 %

Shares = Mapping[str, Mapping[str, float]]  # clip -> condition -> share of its passes that are right


class Difference(Record):
    """b minus a in one column.

    Attributes:
        attacks: what both met in it, as keys of conditions.
        n: clips that both have.
        a, b: average accuracy on these.
        difference, low, high: b - a with its 95 % interval, all in [-1, 1].
        gained, lost: clips that are right in at least half of the passes of b but not of a, and conversely.
        p: see the module.
    """

    column: str
    budget: str
    attacks: list[str]
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float

    @computed_field
    @property
    def distinguishable(self) -> bool:
        """By the test and by the interval, which is the more cautious where clips differ by a few passes."""
        return self.p < LEVEL and not self.low <= 0 <= self.high

    @computed_field
    @property
    def sentence(self) -> str:
        """As in "a withstands more L2 ≤ 0.253: b minus a is -6.0 points [-13.8 to +1.3], ...: not ..."."""
        verb = "recognises" if self.column == CLEAN else "withstands"
        what = "clean clips" if self.column == CLEAN else self.budget
        if self.difference == 0:
            claim = f"a and b {verb.removesuffix('s')} {what} alike"
        else:
            claim = f"{'b' if self.difference > 0 else 'a'} {verb} more {what}"
        verdict = "distinguishable" if self.distinguishable else "not distinguishable"
        return (
            f"{claim}: b minus a is {points(self.difference)} points "
            f"[{points(self.low)} to {points(self.high)}], "
            f"{self.gained} clip{'' if self.gained == 1 else 's'} gained, {self.lost} lost, "
            f"{chance(self.p)}: {verdict}."
        )


class Comparison(Record):
    """Attributes: a, b: titles of the rows; notes: what must be said with the differences."""

    a: str
    b: str
    differences: list[Difference]
    notes: list[str]


def compare(a: Card, b: Card, *, row_a: str | None = None, row_b: str | None = None) -> Comparison:
    """Compare a row of each card, by default its system.

    Raises:
        InputError: if protocol, data or budgets differ, a row is missing, or no column has common clips.
    """
    _check(a, b)
    first, second = _row(a, row_a), _row(b, row_b)
    differences = []
    for column, budget in _budgets(first, second).items():
        both = _keys(first, column) & _keys(second, column)
        pairs = paired(met(a, first, both), met(b, second, both))
        if pairs:
            passes = math.lcm(_passes(first, column), _passes(second, column))
            one, other = (list(shares) for shares in zip(*pairs, strict=True))
            differences.append(_difference(column, budget, sorted(both), one, other, passes))
    if not differences:
        raise InputError("the two evaluations have no clip in common.")
    notes = [*_notes(a, b), *_alone(first, second), *unlike(first, second)]
    return Comparison(a=first.title, b=second.title, differences=differences, notes=notes)


def met(card: Card, row: Row, keys: Collection[str]) -> dict[str, dict[str, float]]:
    """Clip -> condition -> the share of its passes that are right, for those of these conditions it met."""
    rights = {clip.id: clip.right.get(row.key, {}) for clip in card.clips}
    return {clip: {key: right[key] for key in keys if key in right} for clip, right in rights.items()}


def paired(a: Shares, b: Shares) -> list[tuple[float, float]]:
    """The shares of each clip that has any condition in both, under the worst that counts for it.

    What only one of them met does not count, unless the other had nothing left to lose: a clip that fell in
    all passes meets no later attack on survivors.
    """
    pairs = []
    for clip, one in a.items():
        other = b.get(clip, {})
        common = one.keys() & other.keys()
        if not common:
            continue
        x, y = (min(side[key] for key in common) for side in (one, other))
        pairs.append((x if y else min(one.values()), y if x else min(other.values())))
    return pairs


def sign_flip(differences: Sequence[int]) -> float:
    """Two-sided p: chance that random signs bring the sum at least as far from 0 as it is.

    Exact, by adding one clip after the other to the distribution of the sum.
    """
    sizes = [abs(d) for d in differences if d]
    total = sum(sizes)
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes:
        chances = 0.5 * (np.roll(chances, size) + np.roll(chances, -size))
    distance = np.abs(np.arange(-total, total + 1))
    return min(1.0, float(chances[distance >= abs(sum(differences))].sum()))


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % limits of the mean of per-clip differences in [-1, 1], at least one."""
    more = np.array([*differences, 1.0, -1.0])
    reach = Z * float(more.std()) / math.sqrt(len(more))
    mean = float(more.mean())
    return max(-1.0, mean - reach), min(1.0, mean + reach)


def chance(p: float) -> str:
    """As in "p=0.15", or "p<0.001"."""
    return "p<0.001" if p < 0.001 else f"p={p:.2g}"


def points(value: float) -> str:
    """A difference of proportions in signed percentage points, as in "+6.0"."""
    rounded = round(100 * value, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def _difference(
    column: str, budget: str, attacks: list[str], a: list[float], b: list[float], passes: int
) -> Difference:
    n = len(a)
    # whole passes: what a record rounds must not decide between equal and unequal
    units = [round(passes * y) - round(passes * x) for x, y in zip(a, b, strict=True)]
    low, high = paired_interval([unit / passes for unit in units])
    return Difference(
        column=column,
        budget=budget,
        attacks=attacks,
        n=n,
        a=sum(a) / n,
        b=sum(b) / n,
        difference=sum(units) / (passes * n),
        low=low,
        high=high,
        gained=sum(x < 0.5 <= y for x, y in zip(a, b, strict=True)),
        lost=sum(y < 0.5 <= x for x, y in zip(a, b, strict=True)),
        p=sign_flip(units),
    )


def _check(a: Card, b: Card) -> None:
    if a.protocol.name != b.protocol.name:
        raise InputError(f"the protocols differ: “{a.protocol.name}” and “{b.protocol.name}”.")
    one, other = a.protocol.model_dump(), b.protocol.model_dump()
    if one["passes"] != other["passes"] or one["settings"] != other["settings"]:
        keys = [k for k in {**a.protocol.settings, **b.protocol.settings} if _differ(a, b, k)]
        raise InputError(f"the protocols differ in their settings: {', '.join(keys or ['passes'])}.")
    if (a.data.name, a.data.split) != (b.data.name, b.data.split):
        raise InputError(f"the data differ: {_data(a)} and {_data(b)}.")
    labels = {clip.id: clip.label for clip in a.clips}
    for clip in b.clips:
        if labels.get(clip.id, clip.label) != clip.label:
            raise InputError(
                f"{clip.id}: is labelled “{labels[clip.id]}” in one and “{clip.label}” in the other."
            )


def _differ(a: Card, b: Card, key: str) -> bool:
    missing = object()
    return a.protocol.settings.get(key, missing) != b.protocol.settings.get(key, missing)


def _data(card: Card) -> str:
    return card.data.name if card.data.split is None else f"{card.data.name} ({card.data.split})"


def _row(card: Card, key: str | None) -> Row:
    found = next((r for r in card.rows if (r.role == "system" if key is None else r.key == key)), None)
    if found is None:
        names = ", ".join(row.key for row in card.rows)
        wanted = "a system" if key is None else f"“{key}”"
        raise InputError(f"the evaluation has no row for {wanted}; there are: {names}.")
    return found


def _budgets(a: Row, b: Row) -> dict[str, str]:
    mine: Mapping[str, str] = {h.column: h.budget for h in a.headlines}
    theirs: Mapping[str, str] = {h.column: h.budget for h in b.headlines}
    common = [column for column in mine if column in theirs]
    for column in common:
        if mine[column] != theirs[column]:
            raise InputError(f"the budgets differ: {mine[column]} and {theirs[column]}.")
    return {CLEAN: CLEAN, **{column: mine[column] for column in common}}


def _alone(a: Row, b: Row) -> list[str]:
    mine, theirs = ({h.column: h.budget for h in row.headlines} for row in (a, b))
    lone = {
        "a": [mine[c] for c in mine if c not in theirs],
        "b": [theirs[c] for c in theirs if c not in mine],
    }
    return [f"Only {name} was attacked within {', '.join(found)}." for name, found in lone.items() if found]


def _keys(row: Row, column: str) -> set[str]:
    """The conditions of a row in a column of the headline table."""
    if column == CLEAN:
        return {CLEAN}
    return {c.key for c in row.conditions if c.column == column and c.counts}


def _passes(row: Row, column: str) -> int:
    return math.lcm(*(c.attacked.passes for c in row.conditions if c.column == column))


def _notes(a: Card, b: Card) -> list[str]:
    mine, theirs = {clip.id for clip in a.clips}, {clip.id for clip in b.clips}
    found = []
    if mine != theirs:
        found.append(
            f"Only the {len(mine & theirs)} clips that both have are compared: "
            f"a has {len(mine)}, b {len(theirs)}."
        )
    for name, card in {"a": a, "b": b}.items():
        bad = sum(flag.kind == "violation" for flag in card.flags)
        if bad:
            what = "a violation" if bad == 1 else f"{bad} violations"
            found.append(f"{name} carries {what}: do not take it at its word.")
    note = a.protocol.note
    return found if note is None else [*found, note]
