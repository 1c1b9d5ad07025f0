"""What the protocols run, held against what they promise: other numbers would be another card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audiopure import InputError
from audiopure.attacks import Attack, Pgd
from audiopure.attacks.noise import Unattacked
from audiopure.evaluation import protocols
from audiopure.evaluation.stages import Protocol, Stage

EPS = {"linf": 0.002, "l2": 0.253}


def stages(protocol: Protocol) -> dict[str, Stage]:
    return {stage.key: stage for stage in protocol.without_surrogate().stages}


def attack(stage: Stage, column: str) -> Pgd:
    found = stage.attacks[column]
    assert isinstance(found, Pgd) and found.norm == column and found.eps == EPS[column]
    return found


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_protocol_builds_and_has_a_cost(name: str) -> None:
    for stage in stages(protocols.protocol(name)).values():
        for built in stage.attacks.values():
            assert isinstance(built, Attack)
            assert built.cost.gradients + built.cost.forwards > 0 and built.budget
    with pytest.raises(InputError, match="there are: quick"):
        protocols.protocol("fast")


@pytest.mark.parametrize("column", EPS)
def test_quick(column: str) -> None:
    protocol = protocols.protocol("quick")
    pgd = attack(stages(protocol)["pgd-ce"], column)
    assert (pgd.steps, pgd.eot, pgd.eot_start, pgd.loss, pgd.route) == (20, 5, 2, "ce", "exact")
    assert protocol.passes == 10 and pgd.bits == 16
    assert [key for key, stage in stages(protocol).items() if stage.counts] == ["pgd-ce"]


@pytest.mark.parametrize("column", EPS)
def test_standard(column: str) -> None:
    protocol = protocols.protocol("standard")
    found = stages(protocol)
    for loss in ("ce", "margin"):
        pgd = attack(found[f"pgd-{loss}"], column)
        assert (pgd.steps, pgd.eot, pgd.leave, pgd.loss, pgd.route) == (100, 20, 20, loss, "exact")
        assert found[f"pgd-{loss}"].clips is None and pgd.bits == 16
    assert protocol.passes == 20 and found["pgd-ce"].controls and not found["pgd-ce"].survivors
    later = {"apgd", "square-pgd", "square", "fakebob"}
    assert all(
        (found[key].clips, found[key].survivors, found[key].counts) == (50, True, True) for key in later
    )
    assert {stage.key for stage in protocol.stages} == {"pgd-ce", "pgd-margin", "transfer", *later} | {
        "low-frequency",
        "random",
    }
    assert not found["random"].counts


@pytest.mark.parametrize(("column", "step"), [("linf", 0.002 / 5), ("l2", 0.253 / 2)])
def test_paper(column: str, step: float) -> None:
    found = stages(protocols.protocol("paper"))
    for key, route in (("as-released", "network-constant"), ("as-written", "adjoint")):
        pgd = attack(found[key], column)
        assert (pgd.steps, pgd.eot, pgd.route, pgd.random_start, pgd.momentum) == (100, 1, route, False, 0)
        assert pgd.step == pytest.approx(step) and "not a measure of robustness" in (found[key].note or "")
    (still,) = found["unattacked"].attacks.values()
    assert isinstance(still, Unattacked) and still.passes == 101  # draws: those of all iterates
    assert not found["unattacked"].counts


@pytest.mark.parametrize("column", EPS)
def test_full_is_the_same_with_all_draws_from_the_first_step(column: str) -> None:
    whole = stages(protocols.protocol("full"))
    for name, key, other in (
        ("standard", "pgd-ce", "pgd-ce"),
        ("standard", "pgd-margin", "pgd-margin"),
        ("quick", "pgd-ce", "quick"),
    ):
        growing = attack(stages(protocols.protocol(name))[key], column)
        assert growing.eot_start == 2
        assert replace(growing, eot_start=None) == attack(whole[other], column)


def test_fixed_systems_get_one_draw() -> None:
    fixed = protocols.for_fixed(protocols.pgd("l2", 10, 5, "ce", 20, eot_start=2))
    assert isinstance(fixed, Pgd)
    assert (fixed.eot, fixed.eot_start, fixed.selection, fixed.leave) == (1, None, 1, 1)
