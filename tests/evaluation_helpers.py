"""A tiny system, its data and a tiny protocol: an evaluation that takes a second or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import audio
from audiopure.attacks import PAPER_BUDGETS, Pgd
from audiopure.evaluation import engine, protocols
from audiopure.evaluation.card import Card, Data
from audiopure.evaluation.card import Protocol as Facts
from audiopure.evaluation.plan import Plan, PlannedClip, PlannedCondition, PlannedRow
from audiopure.evaluation.protocols import both
from audiopure.evaluation.stages import Protocol, Stage, Sweep
from audiopure.purifier import Purifier

CLIPS, PASSES = 6, 4
FACTOR = 0.3  # of the budgets: some clips fall and some do not
LABELS = ("yes", "no", "up")


class Ear(nn.Module):
    """Three classes by projections of the first samples; small enough for thousands of passes."""

    labels, sample_rate = LABELS, 16_000

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(audiopure.SeededNoise(5).normal((3, 4000), draw=0), requires_grad=False)

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform[:, :4000] @ self.weight.T


class Halver(nn.Module):
    sample_rate, hop, receptive_field = 16_000, 1, 0

    def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        return 0.9 * torch.tanh(x)


class Cut(Ear):
    """No gradient reaches its input, and nothing says so."""

    def forward(self, waveform: Tensor) -> Tensor:
        return super().forward(waveform.detach()) + 0 * waveform[:, :1]


def system() -> audiopure.Defended:
    return audiopure.defend(Ear(), Purifier(Halver(), n_star=2))


def short(norm: str) -> Pgd:
    return replace(protocols.pgd(norm, 4, 2, "ce", PASSES), eps=FACTOR * PAPER_BUDGETS[norm])


def tiny() -> Protocol:
    return Protocol(
        "tiny",
        PASSES,
        (
            Stage("pgd-ce", "PGD-4", both(short), controls=True),
            Stage(
                "again",
                "PGD-4 again",
                both(lambda n: replace(short(n), loss="margin")),
                survivors=True,
                clips=4,
            ),
            protocols.random_stage(),
        ),
        (
            Sweep("budget", (0.5, 500), {"l2": short("l2")}, 3),
            Sweep("eot", (1, 2), {"linf": short("linf")}, 2),
            Sweep("n_star", (1, 2), {"linf": short("linf")}, 2),
        ),
        "For tests.",
    )


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the protocol known by name, with batches of two."""
    patch.setattr(protocols, "PROTOCOLS", {**protocols.PROTOCOLS, "tiny": tiny})
    patch.setattr(engine, "BATCH", 2)


def write_words(folder: Path) -> Path:
    """Clips named by what the recogniser hears in them, of two lengths."""
    source, ear = audiopure.SeededNoise(3), Ear()
    for k in range(12):
        wave = 0.05 * source.for_items([k]).normal((1, 4000 + 500 * (k % 2)), draw=0)[0]
        label = LABELS[int(ear(wave[None]).argmax())]
        (folder / label).mkdir(parents=True, exist_ok=True)
        audio.write(folder / label / f"{k}.wav", wave.clamp(-1, 1), 16_000)
    return folder


def measured(card: Card) -> dict[str, Any]:
    """What must not depend on how an evaluation was run."""
    return card.model_dump(exclude={"command", "machine", "cost", "data", "examples"})


def assert_alike(one: Any, other: Any, where: str = "") -> None:
    """Equal up to the rounding of floating-point numbers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, f"{where}[{index}]")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-4), where
    else:
        assert one == other, where


def prepared_plan(clips: int, conditions: list[PlannedCondition], passes: int) -> Plan:
    """A plan of one row for clips of class 0 of three, without any system behind it."""
    names = [f"clip{k}" for k in range(clips)]
    return Plan(
        command="audiopure evaluate",
        versions={},
        machine={},
        protocol=Facts(name="planted", passes=passes, settings={}, note=None),
        data=Data(name="planted", split=None, clips=clips, of=clips, note=None, shard=None),
        weights={},
        labels=list(LABELS),
        sample_rate=16_000,
        seed=0,
        clips=[PlannedClip(id=n, audio="", label=LABELS[0], target=0, seconds=1.0) for n in names],
        rows=[
            PlannedRow(
                key="system", title="it", spec="it", role="system", passes=passes, conditions=conditions
            )
        ],
        curves=[],
    )
