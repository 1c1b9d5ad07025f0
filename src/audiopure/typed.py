"""Settings that users type, as values of the types that their fields have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from audiopure.errors import InputError

Settings = TypeVar("Settings", bound=BaseModel)


def validated(kind: type[Settings], given: Mapping[str, object]) -> Settings:
    """Settings as a user gives them, as a model: InputError names the first that cannot be."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first['loc'][0]}: {first['msg']}, got {first['input']}.") from error


def converted(text: str, hint: Any, what: str) -> Any:
    """`text` as a value of the type `hint`: "0.004", "50", "none", "yes", "0.9,0.1".

    Raises InputError, which names `what`, if it is none.
    """
    try:
        return _parsed(text, hint)
    except ValueError as error:
        raise InputError(f"{what} must be {_described(hint)}, got '{text}'") from error


def _parsed(text: str, hint: Any) -> Any:
    """`text` as a value of the type `hint`; ValueError if it is none."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _named(text, {str(option): option for option in options})
    if origin in (Union, UnionType):
        return _first(text, sorted(options, key=lambda option: option is str))
    if origin is tuple:
        words, kinds = text.split(","), [kind for kind in options if kind is not Ellipsis]
        if Ellipsis in options:
            kinds *= len(words)
        return tuple(_parsed(word, kind) for word, kind in zip(words, kinds, strict=True))
    if hint is bool:
        return _named(text, {"yes": True, "true": True, "no": False, "false": False})
    if hint is NoneType:
        return _named(text, {"none": None})
    if hint is int or hint is str:
        return hint(text)
    if hint is float and not math.isnan(number := float(text)):
        return number
    raise ValueError


def _named(text: str, values: Mapping[str, Any]) -> Any:
    if text not in values:
        raise ValueError
    return values[text]


def _first(text: str, hints: list[Any]) -> Any:
    for hint in hints:
        try:
            return _parsed(text, hint)
        except ValueError:
            continue
    raise ValueError


def _described(hint: Any) -> str:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(str(option) for option in options)
    if origin in (Union, UnionType):
        return " or ".join(_described(option) for option in options)
    if origin is tuple:
        return "numbers separated by commas"
    words = {int: "a whole number", float: "a number", bool: "yes or no", NoneType: "none", str: "a name"}
    return words.get(hint, f"a {getattr(hint, '__name__', hint)}, which cannot be written as text")
