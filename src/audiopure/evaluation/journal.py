"""Results as they come, a JSON object a line: append-only, a killed run loses what it had not appended."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from audiopure.errors import InputError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None

Line = TypeVar("Line", bound=BaseModel)


class Journal(Generic[Line]):
    """Lines in a file, to which several processes may append at once.

    Subclasses name the kind of line, and what tells one from a repetition.
    """

    kind: type[Line]

    def __init__(self, path: Path):
        self.path = path

    def key(self, line: Line) -> Hashable:
        raise NotImplementedError

    def append(self, lines: Sequence[Line]) -> None:
        """Add lines; they are on the disk when this returns. What a kill left of a line is cut off first."""
        data = "".join(line.model_dump_json() + "\n" for line in lines).encode()
        with _alone(self.path) as file:
            whole = self.path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(file, whole)
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)

    def unite(self, others: Iterable[Self]) -> None:
        """Add the lines of other journals that are not here yet."""
        known = {self.key(line) for line in self.read()}
        for other in others:
            new = [line for line in other.read() if self.key(line) not in known]
            self.append(new)
            known |= {self.key(line) for line in new}

    def read(self) -> list[Line]:
        """Every whole line; what a killed run left of its last one is ignored, a repeated one kept once.

        Raises InputError for a line that is whole but damaged.
        """
        if not self.path.is_file():
            return []
        found: dict[Hashable, Line] = {}
        lines = self.path.read_bytes().split(b"\n")
        for number, text in enumerate(lines[:-1], start=1):
            try:
                line = self.kind.model_validate_json(text)
            except ValidationError as error:
                raise InputError(f"{self.path}: line {number} is damaged.") from error
            found.setdefault(self.key(line), line)
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
