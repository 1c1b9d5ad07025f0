"""From a plan and the outcomes to the report card. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from audiopure.evaluation.card import (
    CLEAN,
    SCHEMA,
    Card,
    ClipOutcome,
    Condition,
    Cost,
    Curve,
    Example,
    Gradient,
    Headline,
    Point,
    Proportion,
    Row,
)
from audiopure.evaluation.ledger import Outcome, Table, done
from audiopure.evaluation.plan import Plan, PlannedCondition, PlannedCurve, PlannedRow
from audiopure.evaluation.sanity import checks, flags
from audiopure.evaluation.scoring import metrics, proportion, spread, vote
from audiopure.evaluation.stages import STILL
from audiopure.evaluation.worker import file_name

MEASURES = ("snr", "l2", "linf", "above_mask", "stoi", "pesq")
EXAMPLES = 8  # clips to listen to


def card(plan: Plan, gradients: Mapping[str, Gradient], outcomes: Sequence[Outcome]) -> Card:
    """The card of what has been measured so far; what is missing is flagged.

    Args:
        gradients: row -> what the audit found.
    """
    table = done(outcomes)
    summary = _Summary(plan, table)
    rows = [summary.row(row, gradients.get(row.key)) for row in plan.rows]
    curves = [*summary.steps(), *(summary.curve(curve) for curve in plan.curves)]
    whole = Card(
        schema_=SCHEMA,
        command=plan.command,
        versions=plan.versions,
        machine=plan.machine,
        protocol=plan.protocol,
        data=plan.data,
        weights=plan.weights,
        cost=Cost(
            seconds=round(sum(o.seconds for o in outcomes), 1), passes=sum(o.queries for o in outcomes)
        ),
        rows=[row for row in rows if row.conditions],
        curves=[curve for curve in curves if curve.points],
        flags=[],
        examples=summary.examples(),
        clips=summary.clips(),
    )
    whole = whole.model_copy(update={"checks": checks(whole, plan, table)})
    return whole.model_copy(update={"flags": flags(whole, plan, table)})


class _Summary:
    def __init__(self, plan: Plan, table: Table):
        self.plan, self.table = plan, table
        self.targets = {clip.id: clip.target for clip in plan.clips}

    def answers(self, row: str, condition: str, clips: Sequence[str]) -> list[list[int]]:
        found = self.table[row, condition]
        return [found[clip].answers for clip in clips]

    def row(self, row: PlannedRow, gradient: Gradient | None) -> Row:
        conditions = [self.condition(row, planned) for planned in row.conditions]
        columns = dict.fromkeys(c.column for c in row.conditions if c.counts)
        headlines = [self.headline(row, column) for column in columns]
        return Row(
            key=row.key,
            title=row.title,
            spec=row.spec,
            role=row.role,
            gradient=gradient,
            headlines=[headline for headline in headlines if headline is not None],
            conditions=[condition for condition in conditions if condition is not None],
        )

    def condition(self, row: PlannedRow, planned: PlannedCondition) -> Condition | None:
        found = self.table.get((row.key, planned.key), {})
        clean = self.table.get((row.key, CLEAN), {})
        clips = [clip for clip in found if clip in clean]
        if not clips:
            return None
        targets = [self.targets[clip] for clip in clips]
        attacked = metrics(self.answers(row.key, planned.key, clips), targets)
        unharmed = metrics(self.answers(row.key, CLEAN, clips), targets)
        values = {m: spread([found[clip].distances.get(m) for clip in clips]) for m in MEASURES}
        still = self.table.get((row.key, STILL), {}) if planned.counts else {}
        note = planned.note
        if planned.survivors:
            ran = f"ran only on the {len(clips)} of {planned.clips} clips that attacks before it had left"
            note = ran if note is None else f"{note} It {ran}."
        return Condition(
            key=planned.key,
            title=planned.title,
            column=planned.column,
            budget=planned.budget,
            attack=planned.attack,
            route=planned.route,
            counts=planned.counts,
            note=note,
            attacked=attacked,
            clean=unharmed,
            success=None if planned.key == CLEAN else self._success(row.key, planned.key, clips),
            any_iterate=_unfailed([found[clip] for clip in clips]),
            any_iterate_clean=_unfailed([still.get(clip) for clip in clips]),
            queries=sum(found[clip].queries for clip in clips) / len(clips),
            distances={m: value for m, value in values.items() if value is not None},
        )

    def _success(self, row: str, condition: str, clips: Sequence[str]):
        """Of the clips that are right in at least half of the clean passes, those wrong in more than half."""
        heard = [clip for clip in clips if self.share(row, CLEAN, clip) >= 0.5]
        if not heard:
            return None
        return proportion(sum(self.share(row, condition, clip) < 0.5 for clip in heard), len(heard))

    def share(self, row: str, condition: str, clip: str) -> float:
        return self.table[row, condition][clip].share(self.targets[clip])

    def worst_of(self, row: PlannedRow, column: str, clip: str) -> str | None:
        """The counting attack that leaves a clip the lowest average."""
        keys = [c.key for c in row.conditions if c.counts and c.column == column]
        ran = [key for key in keys if clip in self.table.get((row.key, key), {})]
        return min(ran, key=lambda key: self.share(row.key, key, clip)) if ran else None

    def headline(self, row: PlannedRow, column: str) -> Headline | None:
        clean = self.table.get((row.key, CLEAN), {})
        worst = {c.id: self.worst_of(row, column, c.id) for c in self.plan.clips if c.id in clean}
        clips = [clip for clip, key in worst.items() if key is not None]
        if not clips:
            return None
        targets = [self.targets[clip] for clip in clips]
        answers = [self.table[row.key, worst[clip] or CLEAN][clip].answers for clip in clips]
        counting = [c for c in row.conditions if c.counts and c.column == column]
        return Headline(
            column=column,
            budget=counting[0].budget,
            attacks=[c.key for c in counting if (row.key, c.key) in self.table],
            attacked=metrics(answers, targets),
            clean=metrics(self.answers(row.key, CLEAN, clips), targets),
        )

    def steps(self) -> list[Curve]:
        """Accuracy of each iterate, for the attacks that count and meet all clips.

        Of attacks with one draw a step also the paper's reading: the clips that no draw so far has failed.
        """
        curves = []
        for row, planned in ((r, c) for r in self.plan.rows for c in r.conditions):
            found = list(self.table.get((row.key, planned.key), {}).values())
            if not planned.counts or planned.survivors or not found:
                continue
            length = min(len(outcome.survived) for outcome in found)
            if length < 3:
                continue
            title = f"{row.title}, {planned.title}, {planned.budget}"
            means = [sum(o.survived[k] for o in found) for k in range(length)]
            note = "each iterate on the draws of its own step, which are new to it"
            curves.append(_curve("steps", title, row.key, planned.column, means, len(found), note))
            if all(share in (0, 1) for o in found for share in o.survived):
                never = [sum(all(o.survived[: k + 1]) for o in found) for k in range(length)]
                note = "no draw of any iterate up to this one failed"
                curves.append(_curve("any-iterate", title, row.key, planned.column, never, len(found), note))
        return curves

    def curve(self, planned: PlannedCurve) -> Curve:
        points = []
        for point in planned.points:
            found = self.table.get((point.row, point.condition), {})
            if found:
                total = sum(self.share(point.row, point.condition, clip) for clip in found)
                points.append(Point(x=point.x, y=proportion(total, len(found))))
        return Curve(
            axis=planned.axis,
            title=planned.title,
            row=planned.row,
            column=planned.column,
            points=points,
            note=planned.note,
        )

    def examples(self) -> list[Example]:
        """Under the worst attack of each column: the clips that fare worst, and some of the others."""
        row = self.plan.rows[0]
        columns = list(dict.fromkeys(c.column for c in row.conditions if c.counts))

        def total(clip: str) -> float:
            keys = [self.worst_of(row, column, clip) for column in columns]
            return sum(self.share(row.key, key, clip) for key in keys if key is not None)

        able = [c.id for c in self.plan.clips if any(self.worst_of(row, column, c.id) for column in columns)]
        order = sorted(able, key=lambda clip: (total(clip), clip))
        head, rest = order[: EXAMPLES // 2], order[EXAMPLES // 2 :]
        spread_out = min(EXAMPLES - len(head), len(rest))
        chosen = head + [rest[round((k + 1) * len(rest) / spread_out) - 1] for k in range(spread_out)]
        found = []
        for clip in chosen:
            found.append(self._example(row.key, CLEAN, clip))
            for column in columns:
                key = self.worst_of(row, column, clip)
                if key is not None:
                    found.append(self._example(row.key, key, clip))
        return found

    def _example(self, row: str, condition: str, clip: str) -> Example:
        outcome = self.table[row, condition][clip]
        target = self.targets[clip]
        return Example(
            clip=clip,
            label=self.plan.labels[target],
            row=row,
            condition=condition,
            right=sum(answer == target for answer in outcome.answers),
            passes=len(outcome.answers),
            heard=self.plan.labels[vote(outcome.answers)],
            snr=outcome.distances.get("snr"),
            audio=f"audio/{row}/{condition}/{file_name(clip)}.flac",
        )

    def clips(self) -> list[ClipOutcome]:
        right: dict[str, dict[str, dict[str, float]]] = {}
        for (row, condition), found in self.table.items():
            for clip in found:
                shares = right.setdefault(clip, {}).setdefault(row, {})
                shares[condition] = round(self.share(row, condition, clip), 4)
        return [
            ClipOutcome(id=c.id, label=c.label, seconds=c.seconds, right=right[c.id])
            for c in self.plan.clips
            if c.id in right
        ]


def _unfailed(outcomes: Sequence[Outcome | None]) -> Proportion | None:
    """The share of clips that no draw of the attack failed; None unless all of them are known."""
    never = [None if outcome is None else outcome.never for outcome in outcomes]
    return None if not never or None in never else proportion(sum(map(bool, never)), len(never))


def _curve(
    axis: Literal["steps", "any-iterate"],
    title: str,
    row: str,
    column: str,
    totals: Sequence[float],
    clips: int,
    note: str,
) -> Curve:
    points = [Point(x=k, y=proportion(total, clips)) for k, total in enumerate(totals)]
    return Curve(axis=axis, title=title, row=row, column=column, points=points, note=note)
