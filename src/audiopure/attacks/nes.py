"""NES (Ilyas et al. 2018) and SPSA (Uesato et al. 2018): projected ascent along estimated gradients."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.climb import Climb, choose
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.estimators import Distribution, check, estimate
from audiopure.attacks.objective import Objective
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

LOOKS = 20  # at which clips may leave
BETA1, BETA2, SMALL = 0.9, 0.999, 1e-8  # Adam's usual constants (Kingma & Ba 2015)


class Walk(Protocol):
    """How estimated gradients become steps. It remembers former gradients of each clip of the batch."""

    def change(self, ball: Ball, gradient: Tensor, rows: Tensor) -> Tensor:
        """The next step of the clips `rows` (k,), of which `ball` and `gradient` are. Shape: (k, T)."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Estimating(Attack):
    """Fields and loop of both attacks. They start at the clip, and ask for losses only.

    Each clip's result is the iterate of largest mean loss or the last one, judged anew by fresh passes.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    steps: int = 100
    samples: int = 50
    sigma: float = 0.001
    step_size: float | None = None
    eot: int = 1
    loss: str | Criterion = "margin"
    targeted: bool = False
    selection: int = 20
    leave: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "steps", "eot", "selection", "leave", "max_rows")
        check(self.samples, self.sigma)
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size must be positive and finite, got {self.step_size}")

    @property
    def step(self) -> float:
        """Length of a step in the norm of the budget."""
        return self.stride * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    @abstractmethod
    def stride(self) -> float:
        """How many budgets the default steps make together, were they all in one direction.

        Estimates are mostly noise. Shorter steps do not arrive, and longer ones run into the border and
        forget there what was averaged. The values are the best on linear functions with 100 and 400 steps of
        T / 670 directions.
        """

    @property
    @abstractmethod
    def directions(self) -> Distribution:
        """Of the random directions."""

    @abstractmethod
    def walk(self, clean: Tensor) -> Walk:
        """For a batch (B, T), at its start."""

    @property
    def cost(self) -> Cost:
        climbing = self.steps * (self.samples + self.eot) + self.eot + LOOKS * (self.leave or 0)
        return Cost(0, climbing + 2 * self.selection)

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
        run = _Run(self, objective, ball, noise.fresh(0))
        for step in range(self.steps):
            run.step(step)
            if progress is not None:
                progress()
        run.look(self.steps)
        candidates = [run.best, run.x]
        return choose(objective, ball, [run.record], candidates, noise.fresh(1), self.selection, self.bits)


@dataclass(frozen=True, kw_only=True)
class Nes(_Estimating):
    """NES: steps along the sign of the estimated gradient, or along its direction for "l2".

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md. Smaller
    ones need more passes: the gain over a step's noise grows with the root of passes over samples of the
    clip.

    Args:
        norm, eps: the budget; the paper's are "linf" .002 and "l2" .253.
        steps: estimates; each costs `samples` + `eot` passes.
        samples: passes of an estimate, two for each direction.
        sigma: distance of the points that are heard, in units of full scale.
        step_size: in the norm of the budget; by default 4 eps / steps.
        momentum: share of the former direction that each step keeps, as in the authors' code.
        eot: draws that judge each iterate.
        loss: a name in `criteria.CRITERIA`, such as "ce" or "margin", or a `Criterion`.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge the best iterate and the last.
        leave: a clip leaves once all of so many fresh passes fail; None keeps it to the end.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
        max_rows: passes that go through the model at once.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")

    @property
    def directions(self) -> Distribution:
        return "normal"

    @property
    def stride(self) -> float:
        return 4.0

    def walk(self, clean: Tensor) -> Walk:
        return _Momentum(self.momentum, self.step, torch.zeros_like(clean))


@dataclass(frozen=True, kw_only=True)
class Spsa(_Estimating):
    """SPSA: directions are random signs, and Adam takes the steps.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        samples: passes of an estimate, two for each direction.
        step_size: Adam's rate, for "l2" times the root of the clip's length; by default 12 eps / steps.

    The others are those of `Nes`.
    """

    samples: int = 128

    @property
    def directions(self) -> Distribution:
        return "rademacher"

    @property
    def stride(self) -> float:
        return 12.0

    def walk(self, clean: Tensor) -> Walk:
        return _Adam(self.step, torch.zeros_like(clean), torch.zeros_like(clean))


@dataclass
class _Momentum:
    share: float
    step: float
    velocity: Tensor

    def change(self, ball: Ball, gradient: Tensor, rows: Tensor) -> Tensor:
        self.velocity[rows] = self.share * self.velocity[rows] + (1 - self.share) * gradient
        return self.step * ball.ascent(self.velocity[rows])


@dataclass
class _Adam:
    step: float
    first: Tensor
    second: Tensor
    taken: int = 0

    def change(self, ball: Ball, gradient: Tensor, rows: Tensor) -> Tensor:
        self.taken += 1
        self.first[rows] = BETA1 * self.first[rows] + (1 - BETA1) * gradient
        self.second[rows] = BETA2 * self.second[rows] + (1 - BETA2) * gradient.square()
        mean = self.first[rows] / (1 - BETA1**self.taken)
        scale = (self.second[rows] / (1 - BETA2**self.taken)).sqrt() + SMALL
        return self.step * ball.ascent(torch.ones_like(mean)) * mean / scale


class _Run:
    """The last iterates `x` (B, T), those of largest mean loss `best` (B, T), and the record."""

    def __init__(self, attack: _Estimating, objective: Objective, ball: Ball, noise: SeededNoise):
        self.attack, self.objective, self.ball, self.noise = attack, objective, ball, noise
        self.x, self.best = ball.clean.clone(), ball.clean.clone()
        self.best_loss = ball.clean.new_full((len(self.x),), -torch.inf)
        self.walk, self.record = attack.walk(ball.clean), Climb(ball.clean)

    def step(self, number: int) -> None:
        """Judge the active clips' iterates, then move them."""
        self.look(number)
        passes = self.attack.leave
        if passes is not None and number % max(1, self.attack.steps // LOOKS) == 0:
            gone = self.record.leave(self.objective, self.x, self._source(number, 1), passes)
            # what all passes fail is kept, whatever its loss
            self.best[gone], self.best_loss[gone] = self.x[gone], torch.inf
        rows = self.record.active
        if not len(rows):
            return
        source = self._source(number, 2).rows(rows.tolist())
        settings = {"samples": self.attack.samples, "sigma": self.attack.sigma}
        gradient, _ = estimate(
            self.objective.rows(rows), self.x[rows], source, **settings, distribution=self.attack.directions
        )
        self.record.queries[rows] += self.attack.samples
        ball = self.ball.rows(rows)
        self.x[rows] = ball.project(self.x[rows] + self.walk.change(ball, gradient, rows))

    def look(self, number: int) -> None:
        """Note the loss of the active clips' iterates."""
        rows = self.record.active
        if not len(rows):
            return self.record.see(None)
        source = self._source(number, 0).rows(rows.tolist())
        found = self.objective.rows(rows).measure(self.x[rows], source, self.attack.eot)
        self.record.queries[rows] += self.attack.eot
        self.record.see(found)
        better = found.loss > self.best_loss[rows]
        self.best[rows[better]], self.best_loss[rows[better]] = self.x[rows[better]], found.loss[better]

    def _source(self, step: int, purpose: int) -> SeededNoise:
        return self.noise.fresh(3 * step + purpose)
