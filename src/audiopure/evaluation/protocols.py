"""What is attacked how, and how it is scored: `quick`, `standard`, `paper`, and two to compare with.

A protocol is a list of stages. Every stage has one attack for each column, most often a norm; a stage that
`counts` enters the headline, where each clip keeps the attack that leaves it the lowest average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

from audiopure.attacks import PAPER_BUDGETS, Attack, Pgd, RandomNoise
from audiopure.attacks.noise import Unattacked
from audiopure.errors import InputError
from audiopure.evaluation.stages import UNATTACKED, Build, Context, Protocol, Stage, Sweep

COLUMNS = ("linf", "l2")
UNBOUNDED = 500.0  # times the budgets: half of full scale at every sample, far beyond any speech


def pgd(
    norm: str,
    steps: int,
    eot: int,
    loss: str,
    leave: int,
    eot_start: int | None = None,
    selection: int | None = None,
) -> Pgd:
    """The strong PGD of `attacks`, with `selection` draws for its best iterates, by default `leave`."""
    draws = {"eot_start": eot_start, "selection": selection or leave, "leave": leave}
    return Pgd.strong(norm, steps, eot, loss=loss, **draws)


def both(build: Callable[[str], Build]) -> dict[str, Build]:
    """The same attack in both norms."""
    return {norm: build(norm) for norm in COLUMNS}


SINGLE = ("eot", "selection", "leave", "passes")  # numbers of draws


def for_fixed(attack: Attack) -> Attack:
    """An attack on a system without randomness: one draw wherever it would average."""
    own = {field.name: getattr(attack, field.name) for field in fields(attack)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {name: 1 for name in SINGLE if own.get(name)}
    if "eot_start" in own:
        changes["eot_start"] = None
    if isinstance(own.get("start"), Attack):
        changes["start"] = for_fixed(own["start"])
    return replace(attack, **changes)  # type: ignore[type-var]


def random_stage(clips: int | None = None) -> Stage:
    """Random noise of the same norm: what of an attack is mere noise."""
    return Stage(
        "random",
        "random noise of the norm",
        both(lambda norm: RandomNoise(norm=norm, eps=PAPER_BUDGETS[norm])),  # type: ignore[arg-type]
        counts=False,
        controls=True,
        clips=clips,
    )


def quick() -> Protocol:
    """PGD-20, EOT growing to 5, at the paper's budgets: minutes on two cores, an upper bound."""
    passes = 10
    short = {"linf": pgd("linf", 10, 2, "ce", passes)}
    return Protocol(
        "quick",
        passes,
        (
            Stage(
                "pgd-ce",
                "PGD-20, EOT to 5",
                both(lambda n: pgd(n, 20, 5, "ce", passes, eot_start=2, selection=5)),
                controls=True,
            ),
            random_stage(50),
        ),
        (Sweep("budget", (0.5, 2, 4, UNBOUNDED), short, 10),),
        "A quick look: longer attacks find more.",
    )


def _square(norm: str, passes: int) -> Attack:
    from audiopure.attacks.square import Square

    eps = PAPER_BUDGETS[norm]
    return Square(norm=norm, eps=eps, queries=200, eot=4, selection=passes, leave=passes)  # type: ignore[arg-type]


def _fakebob(passes: int) -> Attack:
    from audiopure.attacks.fakebob import Fakebob

    return Fakebob(steps=50, samples=50, selection=passes)


def _transfer(norm: str, passes: int) -> Callable[[Context], Attack]:
    from audiopure.attacks.transfer import MiFgsm, Transfer

    def build(context: Context) -> Attack:
        inner = MiFgsm(norm=norm, eps=PAPER_BUDGETS[norm])  # type: ignore[arg-type]
        return Transfer(inner=inner, surrogate=context.surrogate(), selection=passes)

    return build


def without_gradients(passes: int, **options: Any) -> tuple[Stage, ...]:
    """Queries for scores, and a stolen copy."""
    return (
        Stage("square", "Square, 200 queries", both(lambda n: _square(n, passes)), **options),
        Stage("fakebob", "FAKEBOB, 50 steps of 50 queries", {"linf": _fakebob(passes)}, **options),
        Stage("transfer", "transfer from a surrogate", both(lambda n: _transfer(n, passes)), **options),
    )


def standard() -> Protocol:
    """PGD-100 with EOT growing to 20, cross-entropy and then margin, and six other attacks on survivors."""
    from audiopure.attacks.apgd import Apgd
    from audiopure.attacks.low_frequency import LowFrequency

    passes, some = 20, 50
    eps = PAPER_BUDGETS
    on_survivors: dict[str, Any] = {"clips": some, "survivors": True}
    short = {norm: pgd(norm, 20, 5, "ce", 10) for norm in COLUMNS}
    return Protocol(
        "standard",
        passes,
        (
            Stage(
                "pgd-ce",
                "PGD-100, EOT to 20, cross-entropy",
                both(lambda n: pgd(n, 100, 20, "ce", passes, eot_start=2)),
                controls=True,
            ),
            Stage(
                "pgd-margin",
                "PGD-100, EOT to 20, margin",
                both(lambda n: pgd(n, 100, 20, "margin", passes, eot_start=2)),
                survivors=True,
            ),
            Stage(
                "apgd",
                "Auto-PGD-50, DLR, EOT 5",
                both(lambda n: Apgd(norm=n, eps=eps[n], steps=50, eot=5, loss="dlr", selection=passes)),  # type: ignore[arg-type]
                **on_survivors,
            ),
            Stage(
                "square-pgd",
                "PGD-50 from Square's result",
                both(
                    lambda n: replace(pgd(n, 50, 20, "margin", passes, eot_start=2), start=_square(n, passes))
                ),
                **on_survivors,
            ),
            # after the attack by gradient that begins where Square ends: the rest is for queries alone
            *without_gradients(passes, **on_survivors),
            Stage(
                "low-frequency",
                "equaliser, 6 dB",
                {"gain": LowFrequency(gain_db=6.0, eot=4, selection=passes)},
                clips=some,
            ),
            random_stage(),
        ),
        (
            Sweep("budget", (0.25, 0.5, 2, 4, 8, UNBOUNDED), short, 20),
            Sweep("eot", (1, 2, 5, 20), {"l2": short["l2"]}, 20),
            Sweep("n_star", (1, 2, 5, 7, 10), short, 20),
        ),
    )


def black_box() -> Protocol:
    """What attacks without gradients do, alone and to every clip: upper bounds of little worth."""
    passes = 20
    note = "No attack by gradient: not a measure of robustness."
    return Protocol("black-box", passes, (*without_gradients(passes), random_stage()), note=note)


def paper() -> Protocol:
    """The paper's own attack, once as written and once as released: weaker, for comparison only."""
    steps = 100

    def attack(norm: str, route: str) -> Pgd:
        return Pgd(
            norm=norm,  # type: ignore[arg-type]
            eps=PAPER_BUDGETS[norm],
            steps=steps,
            step_size="paper",
            random_start=False,
            route=route,
            bits=None,
        )

    note = "The paper's own weaker setting: EOT 1, an inexact gradient; not a measure of robustness."
    return Protocol(
        "paper",
        20,
        (
            Stage(
                "as-released",
                "PGD-100 as released: network as a constant",
                both(lambda n: attack(n, "network-constant")),
                note=note,
            ),
            Stage(
                "as-written", "PGD-100 as written: adjoint", both(lambda n: attack(n, "adjoint")), note=note
            ),
            Stage(
                UNATTACKED,
                "no attack, as many draws",
                {"linf": Unattacked(passes=steps + 1)},
                counts=False,
                controls=True,
            ),
            random_stage(),
        ),
        note=note,
    )


def full() -> Protocol:
    """The gradient attacks of `standard` and `quick` with all draws from the first step.

    What the schedules of both are held against; only those of `standard` count.
    """
    passes = 20
    stages = [
        Stage(f"pgd-{loss}", f"PGD-100, EOT 20, {name}", both(partial(_whole, loss, passes)), survivors=later)
        for loss, name, later in (("ce", "cross-entropy", False), ("margin", "margin", True))
    ]
    short = both(lambda norm: pgd(norm, 20, 5, "ce", 10, selection=5))
    return Protocol("full", passes, (*stages, Stage("quick", "PGD-20, EOT 5", short, counts=False)))


def _whole(loss: str, passes: int, norm: str) -> Pgd:
    return pgd(norm, 100, 20, loss, passes)


def grid() -> Protocol:
    """Budget against n* under quick's attack in L-inf: the paper's tables 2 and F."""
    attack = {"linf": pgd("linf", 20, 5, "ce", 10, eot_start=2, selection=5)}
    levels = (0, 1, 2, 3, 5, 7, 10)
    # the paper's table 2, and at n* = 5 its table F
    few, many = (1, 2, 4, 8), (1, 2, 4, 5, 8, 10, 15, 20, 25)
    sweeps = tuple(
        Sweep("budget", many if level == 5 else few, attack, 100, n_star=level) for level in levels
    )
    return Protocol("grid", 10, (), sweeps)


# a new protocol is one function and one line here
PROTOCOLS: Mapping[str, Callable[[], Protocol]] = {
    "quick": quick,
    "standard": standard,
    "paper": paper,
    "black-box": black_box,
    "full": full,
    "grid": grid,
}


def protocol(name: str) -> Protocol:
    """A protocol by name; InputError lists those there are."""
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol '{name}'; there are: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]()
