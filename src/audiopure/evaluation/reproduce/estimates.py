"""What jobs will cost before any of them starts: a pass of each system times what its protocol takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiopure.attacks import Attack
from audiopure.attacks.base import Cost
from audiopure.attacks.objective import Objective
from audiopure.evaluation.card import CLEAN
from audiopure.evaluation.lineup import Contender, line_up
from audiopure.evaluation.protocols import protocol
from audiopure.evaluation.reproduce.jobs import Job
from audiopure.evaluation.running import SURVIVORS
from audiopure.noise import SeededNoise
from audiopure.systems import System, load_system

ROWS = 4  # clips that go through a system at once while it is timed
SURROGATE = Cost(100, 20)  # of an attack that needs a surrogate, which is trained only later


class Pass(NamedTuple):
    """Seconds of one clip: backward with forward, and forward alone."""

    gradient: float
    forward: float


@dataclass
class Estimates:
    """Core hours of jobs, at most: clips that an attack has broken leave it.

    Attributes:
        device: where passes are timed.
        timer: seconds of a pass through a model; each system is timed once.
    """

    device: str = "cpu"
    timer: Callable[[nn.Module, str], Pass] | None = None
    known: dict[tuple[str, str], Pass] = field(default_factory=dict)

    def hours(self, job: Job) -> float:
        """Raises InputError or WeightsError for a system that cannot be loaded."""
        given, length = job.options, job.seconds  # passes are timed on a clip of a second
        system, clips = load_system(given["system"]), int(given["limit"])
        if job.command == "certify":
            spent = int(given["n"]) * clips * self._timed(system.spec, "system", system.model).forward
            return length * spent / 3600
        rows, _ = line_up(system, protocol(given["protocol"]), clips)
        return length * sum(self._seconds(system, row) for row in rows) / 3600

    def _seconds(self, system: System, row: Contender) -> float:
        spec = system.spec.rpartition("+")[2] if row.planned.key == "none" else system.spec
        key = "system" if row.planned.key == "none" else row.planned.key
        once = self._timed(spec, key, row.model)
        total = 0.0
        for condition in row.planned.conditions:
            cost = Cost(0, 0)
            if condition.key != CLEAN:
                build = row.attacks[condition.key]
                cost = build.cost if isinstance(build, Attack) else SURROGATE
            share = SURVIVORS if condition.survivors else 1.0
            forwards = cost.forwards + row.planned.passes
            each = cost.gradients * once.gradient + forwards * once.forward
            total += share * condition.clips * each
        return total

    def _timed(self, spec: str, key: str, model: nn.Module) -> Pass:
        if (spec, key) not in self.known:
            self.known[spec, key] = (self.timer or timed)(model, self.device)
        return self.known[spec, key]


def timed(model: nn.Module, device: str) -> Pass:
    """Seconds of a clip of one second, from a few side by side."""
    wave = torch.rand(ROWS, 16_000, generator=torch.Generator().manual_seed(0)).sub(0.5).to(device)
    labels = torch.zeros(ROWS, dtype=torch.long, device=device)
    objective, noise = Objective(model.to(device), labels), SeededNoise(0, tuple(range(ROWS)))
    found = []
    for measure in (objective.gradient, objective.measure):
        measure(wave, noise, 1)  # the first also allocates
        began = time.perf_counter()
        _waited(measure(wave, noise, 1).loss)
        found.append((time.perf_counter() - began) / ROWS)
    return Pass(*found)


def _waited(loss: Tensor) -> None:
    """Until the device has it."""
    float(loss.sum())
