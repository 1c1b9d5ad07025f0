"""Which rows and curves a system gets, and what attacks each: by what it draws and what it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_helpers import CLIPS, Ear, Halver, register, system
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks import Pgd
from audiopure.attacks.noise import Unattacked
from audiopure.evaluation import protocols, running
from audiopure.evaluation.engine import Evaluation, EvaluationConfig
from audiopure.evaluation.evaluate import evaluate
from audiopure.evaluation.stages import UNATTACKED, Stage
from audiopure.purifier import Purifier


@pytest.fixture(autouse=True)
def protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def prepared(data: Path, folder: Path, model: nn.Module | None = None, **changes: Any) -> Evaluation:
    settings = {"system": "it", "data": data, "protocol": "tiny", "limit": CLIPS} | changes
    return Evaluation.prepare(EvaluationConfig(**settings), folder, model=model or system())


def test_one_draw_where_the_attacker_knows_them_all(data: Path, tmp_path: Path) -> None:
    rows = [prepared(data, tmp_path, knowledge=name).contenders[0] for name in ("DW_both", "DW_fwd")]
    assert [row.attacks["pgd-ce/linf"].eot for row in rows] == [1, 2]  # type: ignore[union-attr]
    labels = [c.attack for c in rows[0].planned.conditions if c.key == "pgd-ce/linf"]
    assert labels == [repr(rows[0].attacks["pgd-ce/linf"])]


def test_nothing_is_averaged_or_swept_over_draws_that_are_known(data: Path, tmp_path: Path) -> None:
    both = prepared(data, tmp_path, knowledge="DW_both")
    assert {curve.axis for curve in both.plan.curves} == {"budget", "n_star"}
    assert all("eot=1," in (curve.note or "") for curve in both.plan.curves)
    attacks = [a for row in both.contenders for a in row.attacks.values() if isinstance(a, Pgd)]
    assert attacks and {attack.eot for attack in attacks} == {1}


def test_the_curves_of_a_fixed_system_tell_the_attack_that_ran(data: Path, tmp_path: Path) -> None:
    fixed = prepared(data, tmp_path, model=Ear()).plan.curves
    assert fixed and all("eot=1," in (curve.note or "") for curve in fixed)


def test_a_route_is_declared_only_around_a_reverse_process(data: Path, tmp_path: Path) -> None:
    """Forward noise alone has no network that a gradient could treat as a constant."""
    for reverse, route in ((True, "network-constant"), (False, "exact")):
        model = audiopure.defend(Ear(), Purifier(Halver(), n_star=2, reverse=reverse))
        row = prepared(data, tmp_path, model=model, protocol="paper").contenders[0]
        build = row.attacks["as-released/linf"]
        assert isinstance(build, Pgd) and build.route == route
        planned = {c.key: c.route for c in row.planned.conditions}
        assert planned["as-released/linf"] == route
        # both routes are one where nothing is purified
        assert planned.get("as-written/linf") == ("adjoint" if reverse else None)


def test_a_system_without_randomness_has_budget_curves_alone(data: Path) -> None:
    card = evaluate(Ear(), data, protocol="tiny", limit=6)
    assert {curve.axis for curve in card.curves} == {"steps", "any-iterate", "budget"}
    budget = next(curve for curve in card.curves if curve.axis == "budget")
    assert [point.x for point in budget.points] == [0.5, 500] and budget.points[1].y.value == 0
    assert [row.key for row in card.rows] == ["system"]
    condition = next(c for c in card.rows[0].conditions if c.key == "budget-500/l2")
    assert condition.attacked.passes == 1 and "eot=1, eot_start=None" in (condition.attack or "")


class Dithered(Ear):
    """Random, and without any purifier."""

    def forward(self, waveform: Tensor, noise: audiopure.SeededNoise | None = None) -> Tensor:
        assert noise is not None
        return super().forward(waveform + 0.01 * noise.normal(tuple(waveform.shape), draw=0))  # type: ignore[arg-type]


def test_random_systems_without_a_purifier_have_no_detours_and_no_n_star(data: Path, tmp_path: Path) -> None:
    tiny = evaluate(Dithered(), data, protocol="tiny", limit=2)
    assert {curve.axis for curve in tiny.curves} >= {"budget", "eot"} and len(tiny.rows) == 1
    assert not any(curve.axis == "n_star" for curve in tiny.curves)
    as_released = prepared(data, tmp_path, model=Dithered(), protocol="paper").contenders[0]
    build = as_released.attacks["as-released/linf"]
    assert isinstance(build, Pgd) and build.route == "exact"
    build(Dithered(), torch.zeros(1, 16_000), torch.tensor([0]), noise=audiopure.SeededNoise(0))


def test_the_papers_reading_has_its_value_without_an_attack(data: Path, monkeypatch) -> None:
    short = replace(protocols.paper(), stages=tuple(shortened(s) for s in protocols.paper().stages))
    monkeypatch.setattr(protocols, "PROTOCOLS", {"short": lambda: short})
    card = evaluate(system(), data, protocol="short", limit=6)
    conditions = {c.key: c for c in card.rows[0].conditions}
    still = conditions["unattacked/linf"]
    assert still.any_iterate is not None and not still.counts and still.queries == 5
    assert conditions["as-released/l2"].any_iterate_clean == still.any_iterate
    assert conditions["clean"].any_iterate_clean is None and conditions["random/l2"].any_iterate_clean is None
    assert {c.key for c in card.rows[2].conditions} >= {"clean", "unattacked/linf", "random/linf"}
    assert card.rows[2].key == "noise-only"


def shortened(stage: Stage) -> Stage:
    """Four steps and five draws."""
    short = {
        column: replace(attack, steps=4) if isinstance(attack, Pgd) else attack
        for column, attack in stage.attacks.items()
    }
    if stage.key == UNATTACKED:
        short = {"linf": Unattacked(passes=5)}
    return replace(stage, attacks=short)


def test_a_share_without_clips_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard 7/9: there are 6 clips"):
        prepared(data, tmp_path, shard=(7, 9))


def test_the_cost_is_told_before_it_starts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(work: Evaluation) -> dict[tuple[str, str], float]:
        """Ten minutes for each of the two clips in one condition, a second in the other eight."""
        rows = [contender.planned for contender in work.contenders]
        found = {(row.key, c.key): 1.0 for row in rows for c in row.conditions}
        return found | {("system", "pgd-ce/l2"): 600.0}

    monkeypatch.setattr(running, "estimate", known)
    told: list[str] = []
    evaluate(Ear(), data, protocol="tiny", limit=2, progress=told.append)
    assert told[0] == "2 clips, protocol tiny: about 20 min of attacks" and "attacking" in told[1:]
