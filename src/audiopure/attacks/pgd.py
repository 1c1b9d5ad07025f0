"""PGD (Madry et al. 2018) in expectation over the defence's randomness (EOT, Athalye et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, unit
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.climb import fittest
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Stacked, Value
from audiopure.attacks.restarts import apart, candidates, counted, groups, joined
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

PAPER_BUDGETS = {"linf": 0.002, "l2": 0.253}  # section 4.1; relative to full scale
PAPER_STEP = {"linf": 5, "l2": 2}  # eps over this is the step of the paper's released code
CHECK_EVERY = 3  # steps between looks at which clips may leave


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
        momentum: share of the former direction that each step keeps (as in MI-FGSM, Dong et al. 2018, with
            gradients of length 1). It averages over steps what EOT averages over draws: with .75 and steps
            of eps / 2, 20 steps reach what takes a hundred without.
        eot: draws of the defence's randomness whose loss gradients are averaged at each step.
        eot_start: draws at the first step, if they shall grow geometrically to `eot` at the last: early steps
            need the direction only roughly.
        restarts: runs; with `random_start` each starts elsewhere. As many as fit are climbed at once.
        random_start: start at a random point of the ball, else at the clip.
        start: start at what this attack finds instead. Where gradients lead into local optima, a few hundred
            queries of Square lead out: of 20 `sc09` clips at L-inf .002 the undefended recogniser kept 20 %
            after 100 steps from random points, and none after 50 from 1000 queries of Square.
        loss: a name in `criteria.CRITERIA`, such as "ce" or "margin", or a `Criterion`.
        route: how gradients pass through purifiers, a name in `routes.ROUTES`; "exact" is the honest one.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
        leave: a clip leaves a run once all of so many fresh passes fail; None keeps it to the end.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
        max_rows: clips times draws times restarts that go through the model at once.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    steps: int = 100
    step_size: float | Literal["paper"] | None = None
    momentum: float = 0.0
    eot: int = 1
    eot_start: int | None = None
    restarts: int = 1
    random_start: bool = True
    start: Attack | None = None
    loss: str | Criterion = "ce"
    route: str = "exact"
    targeted: bool = False
    selection: int | None = None
    leave: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    @classmethod
    def strong(cls, norm: str, steps: int, eot: int, *, eps: float | None = None, **others: Any) -> Pgd:
        """PGD as strong as we know it: momentum, and steps of half the budget, by default the paper's.

        As strong in 40 gradients as plain PGD in several hundred. `others` are settings like any.
        """
        eps = PAPER_BUDGETS[norm] if eps is None else eps
        settings = {"norm": norm, "eps": eps, "steps": steps, "eot": eot} | others
        return cls(step_size=eps / 2, momentum=0.85, **settings)

    def __post_init__(self) -> None:
        check_settings(self, "steps", "eot", "eot_start", "leave", "restarts", "selection", "max_rows")
        if not 0 <= self.momentum <= 1:
            raise InputError(f"momentum must lie in [0, 1], got {self.momentum}")
        if self.start is not None and (self.start.norm, self.start.eps) != (self.norm, self.eps):
            raise InputError("the attack that gives the start needs the same budget")
        if isinstance(self.step_size, str) and self.step_size != "paper":
            raise InputError(f"step_size must be a number, 'paper' or None, got {self.step_size!r}")

    @property
    def step(self) -> float:
        """Length of a step in the norm of the budget."""
        if self.step_size == "paper":
            return self.eps / PAPER_STEP[self.norm]
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    def cost(self) -> Cost:
        climbing = sum(self.draws(step) for step in range(self.steps))
        looks = math.ceil(self.steps / CHECK_EVERY) * (self.leave or 0)
        judging = 2 * (self.selection or self.eot) + self.eot + looks
        before = Cost(0, 0) if self.start is None else self.start.cost
        return Cost(
            self.restarts * (climbing + before.gradients), self.restarts * (judging + before.forwards)
        )

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
        runs: list[_Run] = []
        for group in groups(self.restarts, len(waveform) * self.eot, self.max_rows):
            found = []
            if self.start is not None:
                for restart in group:
                    # a number that no step of the run uses
                    begin = noise.fresh(restart).fresh(2 * self.steps + 3)
                    found.append(self.start(model, waveform, labels, noise=begin, lengths=lengths))
            runs.append(_Run(self, objective, ball, joined(noise, group, len(waveform)), found, len(group)))
            runs[-1].climb(counted(progress, len(group)))
        points = [x for run in runs for x in candidates(run.best, run.x, run.side)]
        if self.bits == 16:
            points = [ball.round16(x) for x in points]
        passes = self.selection or self.eot
        chosen, best = fittest(objective, points, noise.fresh(self.restarts), passes)
        return AttackResult(
            chosen,
            best,
            torch.cat([apart(run.losses, run.side) for run in runs]),
            torch.cat([apart(run.survived, run.side) for run in runs]),
            torch.cat([run.queries.unflatten(0, (run.side, -1)) for run in runs]).sum(0)
            + len(points) * passes,
        )

    def climbed(self, objective: Objective) -> Objective:
        """The objective whose gradients are followed: that of the victim, through purifiers by `route`."""
        return replace(objective, model=reroute(objective.model, self.route))

    def scaled(self, gradient: Tensor) -> Tensor:
        """Gradients as momentum adds them up. Shape: (B, T) -> (B, T)."""
        return unit(gradient)

    def draws(self, step: int) -> int:
        """EOT draws at a step, counted from 0."""
        if self.eot_start is None or self.steps == 1:
            return self.eot
        return round(self.eot_start * (self.eot / self.eot_start) ** min(1.0, step / (self.steps - 1)))


class _Run:
    """Restarts `side` by side: the last iterate `x`, the `best` by mean loss, and what was seen on the way.

    The rows are the clips of one restart after those of another; `found`, if any, is where each starts.
    """

    def __init__(
        self,
        attack: Pgd,
        objective: Objective,
        ball: Ball,
        noise: SeededNoise | Stacked,
        found: Sequence[AttackResult],
        side: int,
    ):
        rows = torch.arange(len(ball.clean), device=ball.clean.device).repeat(side)
        self.attack, self.noise, self.side = attack, noise, side
        self.objective, self.ball = objective.rows(rows), ball.rows(rows)
        self.route = attack.climbed(self.objective)
        self.x = self.ball.random(noise.fresh(0)) if attack.random_start else self.ball.clean
        if found:
            self.x = torch.cat([result.adversarial for result in found])
        count = len(self.x)
        self.best, self.best_loss = self.x.clone(), self.x.new_full((count,), -torch.inf)
        self.velocity = torch.zeros_like(self.x)
        self.active = torch.arange(count, device=self.x.device)
        self.queries = torch.zeros(count, dtype=torch.long, device=self.x.device)
        if found:
            self.queries += torch.cat([result.queries for result in found])
        self.losses: list[Tensor] = []
        self.survived: list[Tensor] = []

    def climb(self, progress: Callable[[], None] | None) -> None:
        for step in range(self.attack.steps):
            self._step(step)
            if progress is not None:
                progress()
        if len(self.active):
            rows = self.active
            source = self._source(self.attack.steps + 1)
            self._see(self.objective.rows(rows).measure(self.x[rows], source, self.attack.eot))
        else:
            self._see(None)

    def _step(self, step: int) -> None:
        if not len(self.active):
            return self._see(None)
        rows, draws = self.active, self.attack.draws(step)
        slope = self.route.rows(rows).gradient(self.x[rows], self._source(step + 1), draws)
        self.queries[rows] += draws
        self._see(Value(slope.loss, slope.survived))
        velocity = self.attack.momentum * self.velocity[rows] + self.attack.scaled(slope.gradient)
        self.velocity = self.velocity.index_copy(0, rows, velocity)
        ball = self.ball.rows(rows)
        moved = ball.project(self.x[rows] + self.attack.step * ball.ascent(velocity))
        stays = self._stays(slope.survived, step)
        self.x = self.x.index_copy(0, rows[stays], moved[stays])
        self.active = rows[stays]

    def _stays(self, survived: Tensor, step: int) -> Tensor:
        """Which of the active clips go on: those that any fresh pass withstands. Shape: (active,) bool."""
        passes, suspect = self.attack.leave, survived == 0
        if passes is None or step % CHECK_EVERY or not bool(suspect.any()):
            return torch.ones_like(suspect)
        rows = self.active[suspect]
        source = self._source(self.attack.steps + 2 + step, rows)
        found = self.objective.rows(rows).measure(self.x[rows], source, passes)
        self.queries[rows] += passes
        gone = rows[found.survived == 0]
        # what all passes fail is kept, whatever its loss
        self.best[gone], self.best_loss[gone] = self.x[gone], torch.inf
        return ~torch.isin(self.active, gone)

    def _source(self, number: int, rows: Tensor | None = None) -> SeededNoise | Stacked:
        index = self.active if rows is None else rows
        return self.noise.fresh(number).rows(index.tolist())

    def _see(self, value: Value | None) -> None:
        """Note the loss of the active clips' iterates, None if there are no such clips."""
        loss = self.losses[-1].clone() if self.losses else torch.zeros_like(self.best_loss)
        survived = self.survived[-1].clone() if self.survived else torch.zeros_like(self.best_loss)
        if value is not None:
            rows = self.active
            loss[rows], survived[rows] = value.loss, value.survived
            better = rows[value.loss > self.best_loss[rows]]
            self.best[better], self.best_loss[better] = self.x[better], loss[better]
        self.losses.append(loss)
        self.survived.append(survived)
