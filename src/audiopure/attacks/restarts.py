"""Restarts side by side: runs of an attack on the same clips, as the rows of one batch.

A run of few clips and few draws leaves most of a machine idle: one gradient of one clip takes up to twice as
long as its share of a gradient of eight. Which runs share a batch changes nothing else: each keeps its noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiopure.attacks.objective import Stacked
from audiopure.noise import SeededNoise


def groups(runs: int, rows: int, max_rows: int) -> list[range]:
    """Which of the runs go side by side, where each needs `rows` rows and `max_rows` go through a model."""
    each = max(1, max_rows // max(1, rows))
    return [range(first, min(first + each, runs)) for first in range(0, runs, each)]


def joined(noise: SeededNoise, group: range, clips: int) -> SeededNoise | Stacked:
    """Noise of runs side by side, run after run: that of run k is `noise.fresh(k)`, as if it were alone."""
    sources = [noise.fresh(number) for number in group]
    if len(sources) == 1:
        return sources[0]
    return Stacked(tuple(source.rows([row]) for source in sources for row in range(clips)))


def apart(record: list[Tensor], runs: int) -> Tensor:
    """What runs side by side noted at each iterate, run by run.

    Shape: a list of (runs * B,) -> (runs, iterates, B).
    """
    return torch.stack(record).unflatten(1, (runs, -1)).transpose(0, 1)


def candidates(best: Tensor, last: Tensor, runs: int) -> list[Tensor]:
    """What each run side by side proposes: its best iterate, then its last one. Shape: (B, T) each."""
    pairs = zip(best.chunk(runs), last.chunk(runs), strict=True)
    return [x for pair in pairs for x in pair]


def counted(progress: Callable[[], None] | None, runs: int) -> Callable[[], None] | None:
    """Progress that counts a step of runs side by side as a step of each."""
    if progress is None:
        return None

    def tick() -> None:
        for _ in range(runs):
            progress()

    return tick
