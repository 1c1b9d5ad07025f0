"""Reading records: `report.json`, `certificates.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from audiopure.errors import InputError
from audiopure.evaluation.card import SCHEMA, Card

R = TypeVar("R", bound=BaseModel)


def read_card(path: str | Path) -> Card:
    """The card in a report.json; raises InputError as `read_record`."""
    return read_record(path, Card, SCHEMA, "an evaluation's report.json")


def read_record(path: str | Path, kind: type[R], schema: str, what: str) -> R:
    """A record that names its schema.

    Args:
        what: it is, for messages.

    Raises:
        InputError: if the file is missing or unreadable, not JSON, something else, of another schema, or
            damaged; the sentence names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file.") from error
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON (line {error.lineno}: {error.msg}).") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply to be a report.") from error
    found = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(found, str):
        raise InputError(f"{path}: is not {what}.")
    if found != schema:
        raise InputError(f"{path}: has the schema “{found}”, this version reads “{schema}”.")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InputError(f"{path}: is damaged ({where}: {first['msg'].lower()}).") from error
