"""The imperceptible attack of Qin et al. 2019: succeed, then hide below the clip's masking threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, unit
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Slope
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.noise import SeededNoise
from audiopure.psychoacoustics import Masking, excess, masking_threshold

# the authors' numbers of steps, and of steps between adjustments
PUBLISHED: Mapping[str, Any] = {
    "succeed": 1000,
    "hide": 4000,
    "shrink_every": 10,
    "raise_every": 20,
    "lower_every": 50,
    "rate": 1 / 32768,
}
ALPHA_MIN = 0.0005
INAUDIBLE = 0.05  # power above the threshold, on a scale of up to 10^9.6, at which a clip is done
SLOW_FROM, SLOW = 0.75, 0.1  # the authors' last quarter takes a tenth of the step


@dataclass(frozen=True, kw_only=True)
class Qin(Attack):
    """Two stages: sign steps within a shrinking L-inf bound, then Adam on loss and audibility together.

    Stage one climbs the loss by sign steps; whenever a clip succeeds, its bound becomes .8 of the largest
    change. Stage two starts from the last success and minimises `-loss + alpha * excess`, the excess being
    the mean power of the change above the masking threshold of the clip (`psychoacoustics.excess`); alpha
    grows by 1.2 where the attack succeeds and falls by .8 where it fails. The result is the least audible of
    the clips found that still succeed in fresh passes, or, where none does, the one of largest mean loss.

    How far above the mask the changes that break a recogniser lie is measured in docs/attacks.md.

    It differs from the authors' attack so: the defaults make do with 300 steps, larger ones, and adjust bound
    and alpha more often (`Qin(**PUBLISHED)` for theirs); a sign step is at most a fifth of the bound, as
    larger ones jump between its ends; Adam gets the gradient at length 1 and forgets within some tens of
    steps, as the excess falls by orders of magnitude; success is the share of fresh draws that fail, as
    victims may be randomised.

    Args:
        succeed, hide: steps of the two stages.
        reach: bound of stage one at its start and of the whole attack, in L-inf; the authors' 2000 / 32768.
        step: of stage one, the authors' 100 / 32768.
        rate: step of Adam in stage two; the authors' is 1 / 32768.
        alpha: weight of the excess at the start of stage two.
        shrink_every: steps of stage one between looks at whether the bound can shrink.
        raise_every, lower_every: steps of stage two between increases of alpha, if the attack succeeds, and
            decreases, if it fails.
        success: share of draws that must fail for a clip to count as broken.
        eot: draws whose gradients are averaged at each step; they are also those that judge it.
        loss, targeted: what to climb; see `Pgd`.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
        sample_rate: of the clips, in Hz.
    """

    norm: Literal["free"] = field(default="free", init=False, repr=False)
    eps: float = field(default=math.inf, init=False, repr=False)
    succeed: int = 60
    hide: int = 240
    reach: float = 2000 / 32768
    step: float = 100 / 32768
    rate: float = 3 / 32768
    alpha: float = 0.05
    shrink_every: int = 5
    raise_every: int = 5
    lower_every: int = 5
    success: float = 0.9
    eot: int = 1
    loss: str | Criterion = "margin"
    route: str = "exact"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    sample_rate: int = 16_000
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        counts = ("succeed", "hide", "shrink_every", "raise_every", "lower_every", "eot", "selection")
        check_settings(self, *counts, "max_rows", norms=("free",))
        for name in ("reach", "step", "rate", "alpha"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.success <= 1:
            raise InputError(f"success must lie in (0, 1], got {self.success}")

    @property
    def budget(self) -> str:
        return f"within hearing, L∞ ≤ {self.reach:.3g}"

    @property
    def cost(self) -> Cost:
        return Cost((self.succeed + self.hide) * self.eot, 3 * (self.selection or self.eot))

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
        run = _Run(self, objective, ball, noise.fresh(0), progress)
        first = run.succeed()
        candidates = [run.hide(first), run.x, first]
        if self.bits == 16:
            candidates = [ball.round16(x) for x in candidates]
        judge, passes = noise.fresh(1), self.selection or self.eot
        found = [objective.measure(x, judge, passes) for x in candidates]
        loss = torch.stack([value.loss for value in found])
        broken = torch.stack([1 - value.survived for value in found]) >= self.success
        audible = torch.stack([excess(x - waveform, run.masking) for x in candidates])
        quietest = torch.where(broken, -audible, -torch.inf).argmax(0)
        choice = torch.where(broken.any(0), quietest, loss.argmax(0))
        rows = torch.arange(len(waveform), device=waveform.device)
        spent = labels.new_full(labels.shape, run.queries + len(candidates) * passes)
        return AttackResult(
            torch.stack(candidates)[choice, rows],
            loss[choice, rows],
            torch.stack(run.losses)[None],
            torch.stack(run.survived)[None],
            spent,
        )


class _Run:
    """Both stages for a batch; `x` is the last iterate."""

    def __init__(
        self,
        attack: Qin,
        objective: Objective,
        ball: Ball,
        noise: SeededNoise,
        progress: Callable[[], None] | None,
    ):
        self.attack, self.ball, self.noise, self.progress = attack, ball, noise, progress
        self.objective = replace(objective, model=reroute(objective.model, attack.route))
        self.masking: Masking = masking_threshold(ball.clean, attack.sample_rate, objective.lengths)
        self.x = ball.clean
        self.queries = 0
        self.losses: list[Tensor] = []
        self.survived: list[Tensor] = []

    def succeed(self) -> Tensor:
        """Stage one. Returns the last success of each clip, or its last iterate if there is none."""
        attack, clean = self.attack, self.ball.clean
        bound = torch.full_like(clean[:, :1], attack.reach)
        best, found = clean, torch.zeros_like(bound, dtype=torch.bool)
        for step in range(attack.succeed):
            slope = self._look()
            if step % attack.shrink_every == 0:
                success = self._succeeds(slope)
                size = (self.x - clean).abs().amax(1, keepdim=True)
                best = torch.where(success, self.x, best)
                # a clip that is wrong as it is has changed by nothing
                bound = torch.where(success, 0.8 * bound.minimum(size), bound)
                found = found | success
            move = bound.minimum(bound.new_tensor(5 * attack.step)) / 5 * slope.gradient.sign()
            change = (self.x + move - clean).maximum(-bound).minimum(bound)
            self.x = self.ball.project(clean + change)
        return torch.where(found, best, self.x)

    def hide(self, start: Tensor) -> Tensor:
        """Stage two. Returns the least audible success of each clip, or `start` if there is none."""
        attack, clean = self.attack, self.ball.clean
        adam = _Adam(attack.rate)
        alpha, alpha_min = torch.full_like(clean[:, 0], attack.alpha), min(ALPHA_MIN, attack.alpha)
        least, best = torch.full_like(alpha, torch.inf), start
        done = torch.zeros_like(alpha, dtype=torch.bool)
        self.x = start
        for step in range(attack.hide):
            slope = self._look()
            audible, gradient = self._audible()
            success = self._succeeds(slope)[:, 0]
            if step % attack.raise_every == 0:
                better = success & (audible < least)
                least, best = torch.where(better, audible, least), torch.where(better[:, None], self.x, best)
                done = done | (success & (audible < INAUDIBLE))
                alpha = torch.where(success, alpha * 1.2, alpha)
            if step % attack.lower_every == 0:
                alpha = torch.where(success, alpha, (alpha * 0.8).clamp(min=alpha_min))
            slow = SLOW if step >= SLOW_FROM * attack.hide else 1.0
            move = slow * adam.step(unit(alpha[:, None] * gradient - slope.gradient))
            change = (self.x + move - clean).clamp(-attack.reach, attack.reach)
            self.x = torch.where(done[:, None], self.x, self.ball.project(clean + change))
        return best

    def _look(self) -> Slope:
        """Loss and gradient at `x` in new draws."""
        attack = self.attack
        slope = self.objective.gradient(self.x, self.noise.fresh(len(self.losses)), attack.eot)
        if self.ball.mask is not None:
            slope = slope._replace(gradient=slope.gradient * self.ball.mask)
        self.queries += attack.eot
        self.losses.append(slope.loss)
        self.survived.append(slope.survived)
        if self.progress is not None:
            self.progress()
        return slope

    def _succeeds(self, slope: Slope) -> Tensor:
        return (1 - slope.survived >= self.attack.success)[:, None]

    def _audible(self) -> tuple[Tensor, Tensor]:
        """Excess of each clip's change above its mask, and its gradient. Shape: (B,), (B, T)."""
        with torch.enable_grad():
            change = (self.x - self.ball.clean).requires_grad_()
            audible = excess(change, self.masking)
            (gradient,) = torch.autograd.grad(audible.sum(), change)
        return audible.detach(), gradient


class _Adam:
    """Adam (Kingma & Ba 2015) as a function of the gradients so far: minimises, each element by itself."""

    def __init__(self, rate: float, decay: tuple[float, float] = (0.9, 0.98)):
        self.rate, self.decay, self.count = rate, decay, 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def step(self, gradient: Tensor) -> Tensor:
        first, second = self.decay
        self.count += 1
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        mean, square = self.mean / (1 - first**self.count), self.square / (1 - second**self.count)
        return -self.rate * mean / (square.sqrt() + 1e-10)
