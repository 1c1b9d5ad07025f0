"""What an evaluation has measured, a line for each clip: append-only, a killed run loses a batch at most."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from audiopure.errors import InputError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None


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


class Ledger:
    """The outcomes in a file, to which several processes may append at once."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Add a batch; it is on the disk when this returns. What a kill left of a line is cut off first."""
        data = "".join(outcome.model_dump_json() + "\n" for outcome in outcomes).encode()
        with _alone(self.path) as file:
            whole = self.path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(file, whole)
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)

    def read(self) -> list[Outcome]:
        """Every whole line; what a killed run left of its last one is ignored, a repeated outcome kept once.

        Raises InputError for a line that is whole but damaged.
        """
        if not self.path.is_file():
            return []
        found: dict[tuple[str, str, str], Outcome] = {}
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                outcome = Outcome.model_validate_json(line)
            except ValidationError as error:
                raise InputError(f"{self.path}: line {number} is damaged.") from error
            found.setdefault((outcome.row, outcome.condition, outcome.clip), outcome)
        return list(found.values())


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """The file, open for appending, while no other process has it so."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def done(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], dict[str, Outcome]]:
    """The outcomes as a table."""
    table: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in outcomes:
        table.setdefault((outcome.row, outcome.condition), {})[outcome.clip] = outcome
    return table
