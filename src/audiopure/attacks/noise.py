"""Baselines: random noise of an attack's norm, which shows how much of an attack is mere noise; no change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.base import Attack, AttackResult, Cost, check_clips, check_settings
from audiopure.attacks.objective import Objective
from audiopure.noise import SeededNoise


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Attack):
    """A random point on the border of the ball, drawn without looking at the model.

    "linf" changes every sample by plus or minus eps, the most noise that the budget allows; "l2" is white
    noise of length eps. Where that would leave full scale it is clipped.

    Args:
        passes: fresh passes whose mean is the reported loss.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    passes: int = 1
    bits: Literal[16] | None = 16

    def __post_init__(self) -> None:
        check_settings(self, "passes")

    @property
    def cost(self) -> Cost:
        return Cost(0, self.passes)

    def __call__(
        self,
        model: nn.Module,
        waveform: Tensor,
        labels: Tensor,
        *,
        noise: SeededNoise,
        lengths: Tensor | None = None,
        progress: Callable[[], None] | None = None,
    ) -> AttackResult:
        ball = self._ball(waveform, labels, lengths)
        batch, length = waveform.shape
        z = noise.fresh(0).normal((batch, length), draw=0, device=waveform.device, dtype=waveform.dtype)
        x = ball.project(waveform + self.eps * ball.ascent(z))
        if self.bits == 16:
            x = ball.round16(x)
        return _measured(Objective(model, labels, lengths=lengths), x, noise.fresh(1), self.passes, progress)


@dataclass(frozen=True, kw_only=True)
class Unattacked(Attack):
    """The clips as they are, over many draws: what a randomised system loses without any attack.

    Args:
        passes: fresh passes.
    """

    norm, eps = "linf", 0.0

    passes: int = 100
    max_rows: int = field(default=64, repr=False)

    @property
    def budget(self) -> str:
        return "none"

    @property
    def cost(self) -> Cost:
        return Cost(0, self.passes)

    def __call__(
        self,
        model: nn.Module,
        waveform: Tensor,
        labels: Tensor,
        *,
        noise: SeededNoise,
        lengths: Tensor | None = None,
        progress: Callable[[], None] | None = None,
    ) -> AttackResult:
        check_clips(waveform, labels)
        objective = Objective(model, labels, lengths=lengths, max_rows=self.max_rows)
        return _measured(objective, waveform, noise.fresh(0), self.passes, progress)


def _measured(
    objective: Objective,
    x: Tensor,
    noise: SeededNoise,
    passes: int,
    progress: Callable[[], None] | None,
) -> AttackResult:
    """What a run of no steps that ends at x (B, T) found over `passes` draws."""
    found = objective.measure(x, noise, passes)
    if progress is not None:
        progress()
    spent = torch.full((len(x),), passes, device=x.device)
    return AttackResult(x, found.loss, found.loss[None, None], found.survived[None, None], spent)
