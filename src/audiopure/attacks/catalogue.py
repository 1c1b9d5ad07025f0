"""Attacks by name, with settings as a user would type them: `build_attack("pgd", eps="0.004", norm="l2")`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any, Literal, get_args, get_type_hints

from audiopure.attacks.base import Attack
from audiopure.attacks.criteria import criterion
from audiopure.attacks.pgd import PAPER_BUDGETS
from audiopure.attacks.routes import rerouting
from audiopure.choices import ATTACKS
from audiopure.errors import InputError
from audiopure.typed import converted

__all__ = ["ATTACKS", "build_attack", "settings_of"]


def build_attack(name: str, **settings: object) -> Attack:
    """The attack `name` of `ATTACKS` with the given settings, which are the fields of its class.

    Text is converted to the type of its field: "0.004", "50", "none", "yes", "0.9,0.1". Some settings have a
    meaning of their own:

        norm: another norm than the attack's own comes with its paper's budget unless `eps` is given;
            "free" comes with an infinite one.
        surrogate: of "transfer", a model, or a system as `audiopure.systems.load_system` writes it.
        steps, loss, targeted ...: of "transfer", those of the attack on the surrogate, an `MiFgsm`.

    Raises InputError for an unknown attack or setting, a value that its field cannot hold, a targeted attack
    where the attack knows none, or a missing surrogate.
    """
    kind = _class(name)
    hints = settings_of(name)
    given = dict(settings)
    if given.pop("targeted", False) in (True, "yes", "true"):
        if "targeted" not in hints:
            raise InputError(f"the attack '{name}' cannot be targeted")
        given["targeted"] = True
    given = _with_budget(name, given, hints)
    unknown = [key for key in given if key not in hints]
    if unknown:
        raise InputError(f"the attack '{name}' has no setting '{unknown[0]}'; it has: {', '.join(hints)}")
    values = {
        key: _converted(name, key, value, hints[key]) if isinstance(value, str) else value
        for key, value in given.items()
    }
    _check(values)
    if name == "transfer":
        return _transfer(kind, values)
    return kind(**{**ATTACKS[name].arguments, **values})


def settings_of(name: str) -> Mapping[str, Any]:
    """What can be set of an attack: names of settings and their types. InputError for an unknown attack."""
    kind = _class(name)
    hints = _fields(kind)
    if get_args(hints.get("norm")) == ("free",):
        hints = {key: hint for key, hint in hints.items() if key not in ("norm", "eps")}
    if name == "transfer":
        # what its attack on the surrogate is made of is set directly
        hints = {**_fields(type(_inner(kind))), **{key: h for key, h in hints.items() if key != "inner"}}
    return hints


def _class(name: str) -> type[Attack]:
    if name not in ATTACKS:
        raise InputError(f"there is no attack '{name}'; there are: {', '.join(ATTACKS)}")
    choice = ATTACKS[name]
    return getattr(import_module(choice.module), choice.name)


def _fields(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _default(kind: type, key: str) -> Any:
    return next(field.default for field in fields(kind) if field.name == key)


def _inner(kind: type) -> Attack:
    return _default(kind, "inner")


def _with_budget(name: str, given: dict[str, object], hints: Mapping[str, Any]) -> dict[str, object]:
    """Settings in which norm and budget fit together."""
    norms = get_args(hints.get("norm", Literal["free"]))
    if norms == ("free",):
        for key, only in (("norm", ("free",)), ("eps", ("inf", math.inf))):
            if given.pop(key, only[0]) not in only:
                raise InputError(f"no norm bounds the attack '{name}': it has no setting '{key}'")
        return given
    norm = given.get("norm")
    if norm is None or "eps" in given or norm not in norms:
        return given
    own = _default(_class(name), "norm") if name != "transfer" else _inner(_class(name)).norm
    if norm == own:
        return given
    return {**given, "eps": math.inf if norm == "free" else PAPER_BUDGETS[str(norm)]}


def _check(values: Mapping[str, Any]) -> None:
    """What attacks find out only when they run."""
    if isinstance(values.get("loss"), str):
        criterion(values["loss"], False)
    rerouting(values.get("route", "exact"))
    eps = values.get("eps", 1.0)
    if not eps > 0 or (eps == math.inf and values.get("norm") != "free"):
        raise InputError(f"a budget must be positive and finite, got {eps:g}")


def _transfer(kind: Callable[..., Attack], values: dict[str, Any]) -> Attack:
    surrogate = values.pop("surrogate", None)
    if surrogate is None:
        raise InputError(
            "the attack 'transfer' needs a model to attack instead: surrogate=SYSTEM, such as surrogate=m5"
        )
    if isinstance(surrogate, str):
        from audiopure.systems import load_system

        surrogate = load_system(surrogate).model
    own = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    inner = type(_inner(kind))(**{k: v for k, v in values.items() if k not in own})  # type: ignore[arg-type]
    return kind(surrogate=surrogate, inner=inner, **{k: v for k, v in values.items() if k in own})


def _converted(name: str, key: str, text: str, hint: Any) -> Any:
    if key == "surrogate":
        return text
    return converted(text, hint, f"{name}: {key}")
