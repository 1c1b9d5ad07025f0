"""The folder of a long run: `plan.json` says what it is, and nothing else may be done there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ValidationError

from audiopure.atomic import write_text
from audiopure.errors import InputError

P = TypeVar("P", bound=BaseModel)


class Planned(Protocol):
    """What a plan also has."""

    machine: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Equal for runs whose numbers may stand together."""
        ...


def stored(folder: Path, kind: type[P]) -> P | None:
    """The plan in a folder, None if there is none; InputError if it is damaged, or one of something else."""
    path = folder / "plan.json"
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path}: is damaged, of something else, or of another version of audiopure."
        ) from error


def unite(folders: Sequence[Path], output: Path, kind: type[P], what: str) -> P:
    """The plan that the folders of shards have in common, as the first has it, with the code of all.

    Args:
        what: it is the plan of, for messages: "evaluation".

    Raises InputError if a folder holds none, if the plans differ, or if `output` is one of the folders.
    """
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise InputError(f"{output}: is one of the shards; choose another folder.")
    plans = []
    for folder in folders:
        plan = stored(folder, kind)
        if plan is None:
            raise InputError(f"{folder}: holds no {what} (there is no plan.json).")
        if plans and cast(Planned, plan).digest != cast(Planned, plans[0]).digest:
            raise InputError(f"{folder}: holds another {what} than {folders[0]}, with other settings.")
        plans.append(plan)
    return _by_all(plans[0], plans)


def whole_command(command: str) -> str:
    """The command of a shard without its share."""
    return re.sub(r" --shard \S+", "", command)


def _by_all(plan: P, others: Iterable[P]) -> P:
    """The plan, whose record names each state of the code, between two releases, that has a part in it."""
    machines = [cast(Planned, one).machine for one in (*others, plan)]
    states = [state for one in machines for state in one.get("sources", [one.get("source")])]
    named = list(dict.fromkeys(state for state in states if state))
    if len(named) < 2:
        return plan
    return plan.model_copy(update={"machine": {**cast(Planned, plan).machine, "sources": named}})


def begin(plan: P, folder: Path, what: str) -> P:
    """Make the folder and put the plan there, or check that what is in it belongs to the plan.

    Args:
        plan: a `Planned`.
        what: it is the plan of, for messages: "an evaluation".

    Returns the plan, naming also the code that has done what is there.

    Raises InputError if the folder holds another one, or anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder to write to.")
    folder.mkdir(parents=True, exist_ok=True)
    before = stored(folder, type(plan))
    if before is None:
        if any(not path.name.startswith(".") and path.suffix != ".part" for path in folder.iterdir()):
            raise InputError(f"{folder}: holds something else than {what}; choose another folder.")
        write_text(folder / "plan.json", plan.model_dump_json(indent=1))
        return plan
    if cast(Planned, before).digest != cast(Planned, plan).digest:
        raise InputError(f"{folder}: holds {what} with other settings; choose another folder.")
    whole = _by_all(plan, [before])
    if whole is not plan:
        write_text(folder / "plan.json", whole.model_dump_json(indent=1))
    return whole
