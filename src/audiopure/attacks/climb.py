"""What attacks that only ask for losses share: the record of a run, who leaves it, the choice among runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from audiopure.attacks.ball import Ball
from audiopure.attacks.base import AttackResult
from audiopure.attacks.objective import Objective, Stacked, Value
from audiopure.noise import SeededNoise


class Climb:
    """A run over B clips: which are still `active`, what each has spent, and the loss of each iterate."""

    def __init__(self, clean: Tensor):
        count = len(clean)
        self.active = torch.arange(count, device=clean.device)
        self.queries = torch.zeros(count, dtype=torch.long, device=clean.device)
        self.losses: list[Tensor] = []
        self.survived: list[Tensor] = []
        self._none = clean.new_zeros(count)

    def apart(self, runs: int) -> list[Climb]:
        """The records of runs that were side by side in the batch, each a share of its rows, in turn."""
        parts = [Climb(clips) for clips in self._none.chunk(runs)]
        for number, part in enumerate(parts):
            part.queries = self.queries.chunk(runs)[number]
            part.losses = [loss.chunk(runs)[number] for loss in self.losses]
            part.survived = [share.chunk(runs)[number] for share in self.survived]
        return parts

    def see(self, value: Value | None) -> None:
        """Note the active clips' iterate, None if there are no such clips; others keep their last value."""
        loss = self.losses[-1].clone() if self.losses else self._none.clone()
        survived = self.survived[-1].clone() if self.survived else self._none.clone()
        if value is not None:
            loss[self.active], survived[self.active] = value.loss, value.survived
        self.losses.append(loss)
        self.survived.append(survived)

    def leave(self, objective: Objective, x: Tensor, noise: SeededNoise | Stacked, passes: int) -> Tensor:
        """Let clips go whose last noted draws and then `passes` fresh ones all fail at x (B, T).

        Returns which clips have left, as indices.
        """
        suspect = self.active[self.survived[-1][self.active] == 0]
        if not len(suspect):
            return suspect
        found = objective.rows(suspect).measure(x[suspect], noise.rows(suspect.tolist()), passes)
        self.queries[suspect] += passes
        gone = suspect[found.survived == 0]
        self.active = self.active[~torch.isin(self.active, gone)]
        return gone


def choose(
    objective: Objective,
    ball: Ball,
    climbs: Sequence[Climb],
    candidates: Sequence[Tensor],
    noise: SeededNoise,
    passes: int,
    bits: Literal[16] | None,
) -> AttackResult:
    """Each clip's candidate (B, T) of largest mean loss over `passes` fresh draws, rounded to `bits`."""
    points = [ball.round16(x) if bits == 16 else x for x in candidates]
    chosen, best = fittest(objective, points, noise, passes)
    return AttackResult(
        chosen,
        best,
        torch.stack([torch.stack(climb.losses) for climb in climbs]),
        torch.stack([torch.stack(climb.survived) for climb in climbs]),
        torch.stack([climb.queries for climb in climbs]).sum(0) + len(points) * passes,
    )


def fittest(
    objective: Objective, points: Sequence[Tensor], noise: SeededNoise, passes: int
) -> tuple[Tensor, Tensor]:
    """Each clip's point of largest mean loss over `passes` fresh draws, (B, T), and that loss (B,)."""
    losses = torch.stack([objective.value(x, noise, passes) for x in points])
    best, choice = losses.max(0)
    return torch.stack(list(points))[choice, torch.arange(len(best), device=best.device)], best
