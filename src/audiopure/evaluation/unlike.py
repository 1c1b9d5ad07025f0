"""What two rows that are compared were not attacked alike in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from audiopure.evaluation.card import KNOWLEDGE, Row

KNOWN = re.compile(r"(\S+)".join(map(re.escape, KNOWLEDGE.split("{}"))))


def unlike(a: Row, b: Row) -> Iterator[str]:
    """What was not attacked alike: by whom, attacks that only one row met, and such as had other settings."""
    if _knowledge(a) != _knowledge(b):
        yield f"The attacker's knowledge of the noise is {_knowledge(a)} for a and {_knowledge(b)} for b."
    mine, theirs = ({c.key: c for c in row.conditions if c.counts} for row in (a, b))
    for name, one, other in (("a", mine, theirs), ("b", theirs, mine)):
        lone = [
            key for key in one if key not in other and one[key].column in {c.column for c in other.values()}
        ]
        if lone:
            yield f"Only {name} met {', '.join(lone)}; the differences leave these attacks out."
    found: dict[str, list[str]] = {}
    for key in mine:
        if key in theirs and mine[key].attack != theirs[key].attack:
            what = _difference_of(mine[key].attack or "", theirs[key].attack or "")
            found.setdefault(what, []).append(key)
    for what, keys in found.items():
        yield f"{', '.join(keys)}: {what}."


def _knowledge(row: Row) -> str:
    """A name in `attacks.knowledge`."""
    found = (KNOWN.search(condition.note or "") for condition in row.conditions)
    return next((match[1] for match in found if match), "white-box")


def _difference_of(one: str, other: str) -> str:
    """What differs between two attacks written as they are built."""
    mine, theirs = _settings(one), _settings(other)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        return f"a met {one}, b {other}"
    keys = [key for key in {**mine[1], **theirs[1]} if mine[1].get(key) != theirs[1].get(key)]
    return ", ".join(f"{key} is {mine[1].get(key)} for a and {theirs[1].get(key)} for b" for key in keys)


def _settings(attack: str) -> tuple[str, dict[str, str]] | None:
    """The name of an attack and its settings, None for what is not written as a call."""
    try:
        call = ast.parse(attack, mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    return call.func.id, {word.arg or "**": ast.unparse(word.value) for word in call.keywords}
