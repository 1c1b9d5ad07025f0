"""The rows of an evaluation: the system asked about, its controls, and its variants for curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from audiopure.attacks import PAPER_BUDGETS, Attack, Pgd
from audiopure.attacks.base import NORMS
from audiopure.attacks.knowledge import settings
from audiopure.attacks.objective import randomised
from audiopure.attacks.routes import with_purifiers
from audiopure.evaluation.card import CLEAN, KNOWLEDGE
from audiopure.evaluation.plan import PlannedCondition, PlannedCurve, PlannedPoint, PlannedRow
from audiopure.evaluation.protocols import for_fixed
from audiopure.evaluation.stages import Build, Protocol, Stage, Sweep
from audiopure.purifier import Purifier
from audiopure.systems import System

WHITE_BOX = "white-box"


REVERSE_CLIPS = 10  # of the row that costs as much as the system and matters least


@dataclass(frozen=True)
class Contender:
    """One row: a model, what attacks it by the key of the condition, and what scores the result.

    `model` and `judge` differ only where the attacker knows draws that the score then uses.
    """

    planned: PlannedRow
    model: nn.Module
    judge: nn.Module
    attacks: Mapping[str, Build]

    def knowing(self, knowledge: str, seed: int) -> Contender:
        """The same under a setting of `attacks.knowledge`; a fixed system stays as it is."""
        model, judge = settings(self.model, seed, knowledge)
        if knowledge == WHITE_BOX or not randomised(self.model):
            return self
        passes = self.planned.passes if knowledge.startswith("semi-") else 1
        conditions = [
            c.model_copy(update={"note": _noted(c.note, knowledge)}) for c in self.planned.conditions
        ]
        planned = self.planned.model_copy(update={"passes": passes, "conditions": conditions})
        return Contender(planned, model.eval(), judge.eval(), self.attacks)


def _noted(note: str | None, knowledge: str) -> str:
    sentence = KNOWLEDGE.format(knowledge)
    return sentence if note is None else f"{note} {sentence}"


def line_up(
    system: System, protocol: Protocol, clips: int, *, knowledge: str = WHITE_BOX, seed: int = 0
) -> tuple[list[Contender], list[PlannedCurve]]:
    """Rows in the order of the table, and the curves that their conditions draw.

    Args:
        clips: that there are.
        knowledge: a setting of `attacks.knowledge`, under which all rows are attacked.
        seed: of the draws that the attacker knows.
    """
    asked = _Asked(system, protocol, clips, knowledge)
    rows = [_contender("system", system.spec, system.model, "system", asked)]
    for key, title, model in controls(system):
        rows.append(_contender(key, title, model, "control", asked))
    rows, curves = _with_sweeps(rows, asked)
    return [row.knowing(knowledge, seed) for row in rows], curves


@dataclass(frozen=True)
class _Asked:
    """What was asked for."""

    system: System
    protocol: Protocol
    clips: int
    knowledge: str

    def random(self, model: nn.Module) -> bool:
        """Whether an attack on a model has anything to average over."""
        return randomised(model) and self.knowledge != "DW_both"

    def passes(self, model: nn.Module) -> int:
        return self.protocol.passes if self.random(model) else 1

    def suit(self, attack: Attack, model: nn.Module) -> Attack:
        """One draw where it would average over nothing, no detour of gradients around nothing."""
        attack = attack if self.random(model) else for_fixed(attack)
        reverse = any(purifier.reverse and purifier.n_star > 0 for purifier in _purifiers(model))
        return attack if reverse or not hasattr(attack, "route") else replace(attack, route="exact")  # type: ignore[call-arg]


def controls(system: System) -> list[tuple[str, str, nn.Module]]:
    """(key, title, model) of the rows that come by themselves."""
    found: list[tuple[str, str, nn.Module]] = []
    if system.defended:
        found.append(("none", "no defence", system.undefended))
    if any(p.n_star > 0 and p.reverse and p.forward_noise for p in _purifiers(system.model)):
        alone = with_purifiers(system.model, lambda p: p.replace(reverse=False))
        found.append(("noise-only", "forward noise only", alone))
        without = with_purifiers(system.model, lambda p: p.replace(forward=False))
        found.append(("reverse-only", "reverse process only", without))
    return found


def _contender(
    key: str, title: str, model: nn.Module, role: Literal["system", "control"], asked: _Asked
) -> Contender:
    clips = min(asked.clips, REVERSE_CLIPS) if key == "reverse-only" else asked.clips
    builds: dict[str, Build] = {}
    conditions = [_clean(clips)]
    known: list[tuple[object, ...]] = []  # an attack need not be hashable
    for stage in (stage for stage in asked.protocol.stages if role == "system" or stage.controls):
        for column, build in stage.attacks.items():
            suited = _suited(build, model, asked)
            same = suited, column, stage.counts, stage.clips, stage.survivors
            # routes that differ around a purifier alone are one attack where there is none
            if not (isinstance(suited, Attack) and same in known):
                known.append(same)
                name = f"{stage.key}/{column}"
                builds[name] = suited
                conditions.append(_condition(stage, column, name, suited, clips))
    planned = PlannedRow(
        key=key,
        title=title,
        spec=asked.system.spec if role == "system" else f"{asked.system.spec}: {title}",
        role=role,
        passes=asked.passes(model),
        conditions=conditions,
    )
    return Contender(planned, model.eval(), model.eval(), builds)


def _suited(build: Build, model: nn.Module, asked: _Asked) -> Build:
    if not isinstance(build, Attack):
        return lambda context: asked.suit(build(context), model)
    return asked.suit(build, model)


def _purifiers(model: nn.Module) -> list[Purifier]:
    return [module for module in model.modules() if isinstance(module, Purifier)]


def _clean(clips: int) -> PlannedCondition:
    return PlannedCondition(
        key=CLEAN,
        title="no attack",
        column=CLEAN,
        budget="none",
        attack=None,
        route="none",
        counts=False,
        clips=clips,
        survivors=False,
        note=None,
    )


def _condition(stage: Stage, column: str, name: str, build: Build, clips: int) -> PlannedCondition:
    attack = build if isinstance(build, Attack) else None
    return PlannedCondition(
        key=name,
        title=stage.title,
        column=column,
        budget=f"{NORMS[column]} ≤ {PAPER_BUDGETS[column]:g}" if attack is None else attack.budget,
        attack=stage.title if attack is None else repr(attack),
        route=getattr(attack, "route", "none"),
        counts=stage.counts,
        clips=min(clips, stage.clips or clips),
        survivors=stage.survivors,
        note=stage.note,
    )


def _with_sweeps(rows: list[Contender], asked: _Asked) -> tuple[list[Contender], list[PlannedCurve]]:
    """The rows with what the sweeps add to them, then their variants; and the curves."""
    found = {row.planned.key: row for row in rows}
    curves = []
    for sweep in (sweep for sweep in asked.protocol.sweeps if _applies(sweep, asked)):
        for column, attack in sweep.attacks.items():
            count, points = min(asked.clips, sweep.clips), []
            for value in sweep.values:
                n_star = value if sweep.axis == "n_star" else sweep.n_star
                row = _row_at(n_star)
                if n_star is not None and row not in found:
                    found[row] = _variant(n_star, asked)
                name = f"{sweep.axis}-{value:g}/{column}"
                title = TITLES[sweep.axis].format(value)
                suited = asked.suit(_changed(attack, sweep.axis, value), found[row].model)
                found[row] = _added(found[row], name, title, column, suited, count)
                points.append(PlannedPoint(x=value, row=row, condition=name))
            drawn = _row_at(sweep.n_star)
            at = "" if sweep.n_star is None else f"n* = {sweep.n_star:g}, "
            curves.append(
                PlannedCurve(
                    axis=sweep.axis,  # type: ignore[arg-type]
                    title=f"{at}{NORMS[column]}: {AXES[sweep.axis]}",
                    row=drawn,
                    column=column,
                    points=points,
                    note=f"{count} clips, {asked.suit(attack, found[drawn].model)!r}",
                )
            )
    return list(found.values()), curves


def _row_at(n_star: float | None) -> str:
    """Key of the row of the system, or of its variant at another n*."""
    return "system" if n_star is None else f"n_star={n_star:g}"


def _applies(sweep: Sweep, asked: _Asked) -> bool:
    """Draws are swept where something is random, n* where a purifier has one; budgets always."""
    if sweep.axis == "n_star" or sweep.n_star is not None:
        return any(purifier.n_star > 0 for purifier in _purifiers(asked.system.model))
    return sweep.axis != "eot" or asked.random(asked.system.model)


AXES = {"budget": "multiple of the budget", "eot": "EOT draws", "n_star": "n*"}
TITLES = {"budget": "budget × {:g}", "eot": "EOT {:g}", "n_star": "n* = {:g}"}


def _changed(attack: Pgd, axis: str, value: float) -> Pgd:
    if axis == "n_star":
        return attack
    if axis == "eot":
        return replace(attack, eot=int(value))
    return replace(attack, eps=attack.eps * value, step_size=attack.eps * value / 2)


def _variant(n_star: float, asked: _Asked) -> Contender:
    model = with_purifiers(asked.system.model, lambda p: p.replace(n_star=n_star))
    planned = PlannedRow(
        key=_row_at(n_star),
        title=f"n* = {n_star:g}",
        spec=f"{asked.system.spec}: n* = {n_star:g}",
        role="variant",
        passes=asked.passes(model),
        conditions=[_clean(0)],
    )
    return Contender(planned, model.eval(), model.eval(), {})


def _added(row: Contender, name: str, title: str, column: str, attack: Attack, clips: int) -> Contender:
    stage = Stage(name, title, {column: attack}, counts=False, clips=clips)
    planned = row.planned
    conditions = [
        c.model_copy(update={"clips": max(c.clips, clips)}) if c.key == CLEAN else c
        for c in planned.conditions
    ]
    conditions.append(_condition(stage, column, name, attack, clips))
    planned = planned.model_copy(update={"conditions": conditions})
    return Contender(planned, row.model, row.judge, {**row.attacks, name: attack})
