"""PGD (Madry et al. 2018) in expectation over the defence's randomness (EOT, Athalye et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, unit
from audiopure.attacks.base import Attack, AttackResult
from audiopure.attacks.objective import Loss, Objective
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

PAPER_BUDGETS = {"linf": 0.002, "l2": 0.253}  # section 4.1; relative to full scale
PAPER_STEP = {"linf": 5, "l2": 2}  # eps over this is the step of the paper's released code


@dataclass(frozen=True, kw_only=True)
class Pgd(Attack):
    """PGD. Each clip's result is the iterate of largest mean loss, judged anew by fresh passes.

    The best iterate of each restart by the mean loss of its EOT draws, and the last one, are rounded and
    compared over fresh draws: no iterate is kept for one lucky failure of a randomised defence.

    Args:
        norm, eps: the budget; the paper's are "linf" .002 and "l2" .253.
        steps: gradient steps of each restart.
        step_size: in the norm of the budget; by default 2.5 eps / steps; "paper" is eps / 5 for "linf" and
            eps / 2 for "l2".
        momentum: share of the former direction that each step keeps (MI-FGSM, Dong et al. 2018, here with
            gradients of length 1). It averages over steps what EOT averages over draws: with .75 and steps
            of eps / 2, 20 steps reach what takes a hundred without.
        eot: draws of the defence's randomness whose loss gradients are averaged at each step.
        restarts: runs; with `random_start` each starts elsewhere.
        random_start: start at a random point of the ball, else at the clip.
        loss: "ce" (cross-entropy) or "margin" (best other logit minus the label's).
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
        max_rows: clips times draws that go through the model at once.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    steps: int = 100
    step_size: float | Literal["paper"] | None = None
    momentum: float = 0.0
    eot: int = 1
    restarts: int = 1
    random_start: bool = True
    loss: Loss = "ce"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        counts = {
            "steps": self.steps,
            "eot": self.eot,
            "restarts": self.restarts,
            "selection": self.selection,
            "max_rows": self.max_rows,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise InputError(f"{name} must be at least 1, got {count}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.bits not in (16, None):
            raise InputError(f"bits must be 16 or None, got {self.bits}")
        if isinstance(self.step_size, str) and self.step_size != "paper":
            raise InputError(f"step_size must be a number, 'paper' or None, got {self.step_size!r}")

    @property
    def step(self) -> float:
        """Length of a step in the norm of the budget."""
        if self.step_size == "paper":
            return self.eps / PAPER_STEP[self.norm]
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

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
        objective = Objective(model, labels, self.loss, self.targeted, lengths, self.max_rows)
        candidates: list[Tensor] = []
        histories: list[Tensor] = []
        for restart in range(self.restarts):
            found, history = self._climb(objective, ball, noise.fresh(restart), progress)
            candidates += found
            histories.append(history)
        if self.bits == 16:
            candidates = [ball.round16(x) for x in candidates]
        judge = noise.fresh(self.restarts)
        losses = torch.stack([objective.value(x, judge, self.selection or self.eot) for x in candidates])
        best, choice = losses.max(0)
        adversarial = torch.stack(candidates)[choice, torch.arange(len(waveform), device=waveform.device)]
        return AttackResult(adversarial, best, torch.stack(histories))

    def _climb(
        self, objective: Objective, ball: Ball, noise: SeededNoise, progress: Callable[[], None] | None
    ) -> tuple[list[Tensor], Tensor]:
        """One run: (best iterate by EOT mean loss, last iterate), and the losses (steps + 1, B)."""
        x = ball.random(noise.fresh(0)) if self.random_start else ball.clean
        best, best_loss, history = x, x.new_full((len(x),), -torch.inf), []
        velocity = torch.zeros_like(x)
        for number in range(1, self.steps + 2):
            draws = noise.fresh(number)
            last = number == self.steps + 1
            if last:
                loss = objective.value(x, draws, self.eot)
            else:
                loss, gradient = objective.gradient(x, draws, self.eot)
            better = loss > best_loss
            best, best_loss = torch.where(better[:, None], x, best), torch.where(better, loss, best_loss)
            history.append(loss)
            if not last:
                velocity = self.momentum * velocity + unit(gradient)
                x = ball.project(x + self.step * ball.ascent(velocity))
                if progress is not None:
                    progress()
        return [best, x], torch.stack(history)
