"""What an evaluation has measured, a line for each clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from audiopure.evaluation.journal import Journal


class Outcome(BaseModel):
    """One clip under one attack on one system.

    Attributes:
        row, condition, clip: keys of the system, the attack and the clip.
        answers: class heard in each fresh pass.
        loss: mean attack loss over fresh passes; larger is better for the attacker.
        survived: of each iterate (the worst restart's), the share of its draws that withstood it.
        never: whether no draw of any iterate failed.
        queries: forward passes that the attack spent.
        distances: see `card.Condition`.
        seconds: of work, the batch's shared equally.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    condition: str
    clip: str
    answers: list[int]
    loss: float | None
    survived: list[float]
    never: bool | None
    queries: int
    distances: dict[str, float | None]
    seconds: float

    def share(self, target: int) -> float:
        """Of the fresh passes, the share that hears `target`."""
        return sum(answer == target for answer in self.answers) / len(self.answers)


Table = Mapping[tuple[str, str], Mapping[str, Outcome]]  # (row, condition) -> clip -> outcome


class Ledger(Journal[Outcome]):
    """The outcomes in a file."""

    kind = Outcome

    def key(self, line: Outcome) -> tuple[str, str, str]:
        return line.row, line.condition, line.clip


def done(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], dict[str, Outcome]]:
    """The outcomes as a table."""
    table: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in outcomes:
        table.setdefault((outcome.row, outcome.condition), {})[outcome.clip] = outcome
    return table
