"""Files that are written whole or not at all: who reads one sees the old or the new, never half of either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path`, of the same extension, that takes its place if what is done here succeeds."""
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text, in UTF-8."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
