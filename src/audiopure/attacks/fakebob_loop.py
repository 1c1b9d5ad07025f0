"""The loop of FAKEBOB: sign steps along estimated gradients, slower wherever the cost has risen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from audiopure.attacks.ball import Ball
from audiopure.attacks.base import Attack, Cost, check_settings
from audiopure.attacks.climb import Climb
from audiopure.attacks.estimators import check, estimate
from audiopure.attacks.objective import Objective
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

CONVERGED = 0.9999  # a cost above this share of the one at the last check counts as no progress


@dataclass(frozen=True, kw_only=True)
class SignDescent(Attack):
    """Settings of the loop; the defaults are those of FAKEBOB's authors (Chen et al. 2021, their code).

    Args:
        eps: L-infinity budget.
        steps: sign steps.
        samples, sigma: of each gradient's estimate by `estimators.estimate`.
        momentum: share of the former direction in the new one, the rest is the new estimate.
        rate, min_rate: first and smallest step, in units of full scale.
        plateau_length, plateau_drop: after so many steps over which the mean cost of the samples has risen,
            the step is divided by so much.
        check_every: at the first step, and after each so many more, a clip whose mean cost is above .9999
            times that of the last check leaves as converged.
        max_rows: clips times passes that go through the model at once.
    """

    norm: Literal["linf"] = "linf"
    eps: float = 0.002
    steps: int = 1000
    samples: int = 50
    sigma: float = 0.001
    momentum: float = 0.9
    rate: float = 1e-3
    min_rate: float = 1e-6
    plateau_length: int = 5
    plateau_drop: float = 2.0
    check_every: int = 100
    targeted: bool = False
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check(self.samples, self.sigma)
        check_settings(self, "steps", "plateau_length", "check_every", "max_rows")
        if self.norm != "linf":
            raise InputError(f"FAKEBOB steps by signs, which fit the norm 'linf', got '{self.norm}'")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0 < self.min_rate <= self.rate:
            raise InputError(f"rates must be positive, the first at least the smallest, got {self.rate}")
        if not self.plateau_drop >= 1:
            raise InputError(f"plateau_drop must be at least 1, got {self.plateau_drop}")

    @abstractmethod
    def minimised(self, loss: Tensor) -> Tensor:
        """The cost: what the loop believes to minimise, from the loss; a clip leaves once it is below 0."""

    def climbing(self, eot: int, confirmations: int | None = None) -> Cost:
        """What the loop spends on a clip that never leaves though each look finds it worth confirming.

        Args: as of `Descent`.
        """
        return Cost(0, self.steps * self.samples + (self.steps + 1) * (eot + (confirmations or 0)))


class Plateau:
    """Steps of a batch: each is divided by `drop` once its cost has risen over `length` calls.

    Args:
        rate: (B,) first steps.
    """

    def __init__(self, rate: Tensor, minimum: float, length: int, drop: float):
        self.rate, self.minimum, self.length, self.drop = rate.clone(), minimum, length, drop
        self.recent = rate.new_zeros(len(rate), length)
        self.count = torch.zeros_like(rate, dtype=torch.long)

    def update(self, rows: Tensor, cost: Tensor) -> None:
        """Note the costs of some clips. Shape: (k,), (k,)."""
        recent = torch.cat([self.recent[rows, 1:], cost[:, None]], dim=1)
        count, rate = self.count[rows] + 1, self.rate[rows]
        risen = (count >= self.length) & (recent[:, -1] > recent[:, 0])
        self.rate[rows] = torch.where(risen, (rate / self.drop).clamp(min=self.minimum), rate)
        # a drop starts the window afresh
        self.count[rows] = torch.where(risen, 0, count)
        self.recent[rows] = recent

    def restart(self, rows: Tensor, rate: float) -> None:
        """Forget the costs of some clips and step by `rate` again. Shape: (k,)."""
        self.rate[rows], self.count[rows] = rate, 0


class Descent:
    """A batch on its way: the last iterate `x`, the `best` by cost, and what was seen (`climb`).

    Args:
        eot: draws of the model's randomness whose mean loss is the cost of an iterate.
        confirmations: fresh draws whose mean cost must be below 0 too before a clip leaves; None asks none.
    """

    def __init__(
        self,
        attack: SignDescent,
        objective: Objective,
        ball: Ball,
        noise: SeededNoise,
        eot: int,
        confirmations: int | None = None,
    ):
        self.attack, self.objective, self.ball, self.noise, self.eot = attack, objective, ball, noise, eot
        self.confirmations = confirmations
        self.climb = Climb(ball.clean)
        self.x, self.best = ball.clean.clone(), ball.clean.clone()
        self.best_cost = self.x.new_full((len(self.x),), torch.inf)
        self.checked = self.best_cost.clone()
        self.direction = torch.zeros_like(self.x)
        rates = torch.full_like(self.best_cost, attack.rate)
        self.schedule = Plateau(rates, attack.min_rate, attack.plateau_length, attack.plateau_drop)

    def run(self, progress: Callable[[], None] | None) -> None:
        for step in range(self.attack.steps):
            self._look(step)
            if len(self.climb.active):
                cost = self.advance(step)
                if step % self.attack.check_every == 0:
                    self._drop_converged(cost)
            if progress is not None:
                progress()
        self._look(self.attack.steps)

    def advance(self, step: int) -> Tensor:
        """One step of the active clips. Returns the mean cost around where they were. Shape: (active,)."""
        rows, attack = self.climb.active, self.attack
        gradient, loss = estimate(
            self.objective.rows(rows),
            self.x[rows],
            self.source(step).fresh(1),
            samples=attack.samples,
            sigma=attack.sigma,
            distribution="normal",
        )
        self.climb.queries[rows] += attack.samples
        self.direction[rows] = attack.momentum * self.direction[rows] + (1 - attack.momentum) * gradient
        cost = attack.minimised(loss)
        self.schedule.update(rows, cost)
        move = self.schedule.rate[rows, None] * self.direction[rows].sign()
        self.x[rows] = self.ball.rows(rows).project(self.x[rows] + move)
        return cost

    def source(self, step: int) -> SeededNoise:
        """Noise of a step for the active clips."""
        return self.noise.fresh(step).rows(self.climb.active.tolist())

    def _look(self, step: int) -> None:
        """Note the active clips' iterates; those of negative cost leave."""
        rows = self.climb.active
        if not len(rows):
            return self.climb.see(None)
        found = self.objective.rows(rows).measure(self.x[rows], self.source(step).fresh(0), self.eot)
        self.climb.queries[rows] += self.eot
        self.climb.see(found)
        cost = self.attack.minimised(found.loss)
        better = cost < self.best_cost[rows]
        self.best[rows[better]], self.best_cost[rows[better]] = self.x[rows[better]], cost[better]
        gone = rows[cost < 0]
        if self.confirmations is not None and len(gone):
            fresh = self.noise.fresh(step).rows(gone.tolist()).fresh(2)
            again = self.objective.rows(gone).measure(self.x[gone], fresh, self.confirmations)
            self.climb.queries[gone] += self.confirmations
            gone = gone[self.attack.minimised(again.loss) < 0]
        self.climb.active = rows[~torch.isin(rows, gone)]

    def _drop_converged(self, cost: Tensor) -> None:
        rows = self.climb.active
        self.climb.active = rows[~(cost > CONVERGED * self.checked[rows])]
        self.checked[rows] = cost
