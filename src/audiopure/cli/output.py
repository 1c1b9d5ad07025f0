"""Files that commands leave beside what they print."""

from __future__ import annotations

from pathlib import Path

from audiopure.errors import InputError


def check_output(path: Path | None, overwrite: bool) -> None:
    """Before the work: InputError if a file cannot be written, or exists and `overwrite` is not set."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: is not a file in a folder that exists.")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; --overwrite replaces it.")
