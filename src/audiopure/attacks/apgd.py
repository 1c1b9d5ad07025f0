"""Auto-PGD (Croce & Hein 2020), whose step size sets itself, in expectation over the defence's randomness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings, predict
from audiopure.attacks.climb import Climb, choose
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Slope, Stacked, Value
from audiopure.attacks.restarts import candidates, counted, groups, joined
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

# section 3.1 of the paper
FIRST_STEP = 2.0  # times eps
NEW = 0.75  # share of the new step in a move; the former move has the rest
RISING = 0.75  # a stretch in which fewer of the steps climb halves the step size


def checkpoints(steps: int) -> list[int]:
    """Steps at which step sizes are reconsidered: ceil(p_j steps), p_0 = 0, p_1 = .22, then less and less."""
    marks, hundredths, stretch = [0], 22, 22
    while hundredths <= 100:
        marks.append(-(-hundredths * steps // 100))
        stretch = max(stretch - 3, 6)
        hundredths += stretch
    return sorted(set(marks))


@dataclass(frozen=True, kw_only=True)
class Apgd(Attack):
    """Auto-PGD. Each clip's result is the iterate of largest mean loss, judged anew by fresh passes.

    Moves keep a part of the former one, and each clip has its own step size, 2 eps at first. At each of the
    `checkpoints` it is halved, and the clip goes on from its best iterate, if less than three quarters of the
    steps since the last one climbed, or if nothing better was found at an unchanged step size.

    What randomised systems change: a loss is the mean over the EOT draws of its step; the best iterate is
    seen through new draws when a clip goes back to it, and its loss is that from then on, as it may have been
    best by luck; and the candidates, the best and the last iterate of each run, are rounded and compared over
    fresh draws.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        norm, eps: the budget.
        steps: gradient steps of each run.
        eot: draws of the defence's randomness whose loss gradients are averaged at each step.
        restarts: runs; with `random_start` each starts elsewhere. As many as fit are climbed at once.
        random_start: start at a random point of the ball, else at the clip.
        loss: "ce", "dlr", "margin" or a `Criterion`.
        targets: APGD-T: run towards each of so many wrong classes, the likeliest by the mean of their log
            probabilities over fresh passes to the clip, by the targeted DLR loss; needs `loss="dlr"`.
        route: how gradients pass through purifiers, a name in `routes.ROUTES`; "exact" is the honest one.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
        max_rows: clips times draws times runs that go through the model at once.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    steps: int = 100
    eot: int = 1
    restarts: int = 1
    random_start: bool = True
    loss: str | Criterion = "ce"
    targets: int | None = None
    route: str = "exact"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "steps", "eot", "restarts", "targets", "selection", "max_rows")
        if self.targets is not None and (self.loss != "dlr" or self.targeted):
            raise InputError(
                "targets are attacked by the DLR loss and for true labels: loss='dlr', not targeted"
            )

    @property
    def cost(self) -> Cost:
        looks = self.steps + len(checkpoints(self.steps))
        passes = self.selection or self.eot
        return Cost(self.runs * looks * self.eot, 2 * self.runs * passes + (passes if self.targets else 0))

    @property
    def runs(self) -> int:
        """How often it climbs: restarts times targets."""
        return self.restarts * (self.targets or 1)

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
        runs, passes = self.runs, self.selection or self.eot
        goals = [objective]
        if self.targets is not None:
            goals = self._goals(objective, ball.clean, noise.fresh(runs + 1))
        climbs: list[Climb] = []
        points: list[Tensor] = []
        for group in groups(runs, len(waveform) * self.eot, self.max_rows):
            rows = torch.arange(len(waveform), device=waveform.device).repeat(len(group))
            wanted = torch.cat([goals[number % len(goals)].labels for number in group])
            goal = replace(goals[0].rows(rows), labels=wanted)
            run = _Run(self, goal, ball.rows(rows), joined(noise, group, len(waveform)))
            run.climb(counted(progress, len(group)))
            climbs += run.apart(len(group))
            points += candidates(run.best, run.x, len(group))
        result = choose(objective, ball, climbs, points, noise.fresh(runs), passes, self.bits)
        return result if self.targets is None else replace(result, queries=result.queries + passes)

    def _goals(self, objective: Objective, clean: Tensor, noise: SeededNoise) -> list[Objective]:
        """The objective of each target: the likeliest wrong class of each clip, the second, and so on."""
        assert self.targets is not None
        heard = predict(
            objective.model,
            clean,
            noise=noise,
            passes=self.selection or self.eot,
            lengths=objective.lengths,
            max_rows=self.max_rows,
        )
        labels, classes = objective.labels, heard.shape[-1]
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise InputError(f"labels must lie between 0 and {classes - 1}, the model's classes")
        if self.targets >= classes:
            raise InputError(f"targets must be fewer than the model's {classes} classes, got {self.targets}")
        likely = heard.clamp(min=torch.finfo(heard.dtype).tiny).log().mean(1)
        wrong = likely.scatter(1, labels[:, None], -math.inf).topk(self.targets).indices
        return [replace(objective, labels=labels * classes + to, loss=Towards()) for to in wrong.unbind(1)]


@dataclass(frozen=True)
class Towards:
    """Targeted DLR (Croce & Hein 2020, section 4), with the true class in it: a label is true * C + wanted.

    (z_wanted - z_true) / (z_first - (z_third + z_fourth) / 2), with the logits in descending order. Any wrong
    answer is a success. Raises InputError for fewer than four classes.
    """

    targeted: bool = False

    def classes(self, scores: Tensor) -> int:
        if scores.shape[1] < 4:
            raise InputError(f"the targeted DLR loss needs 4 classes, the model has {scores.shape[1]}")
        return scores.shape[1] ** 2

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        true, wanted = labels // scores.shape[1], labels % scores.shape[1]
        first, _, third, fourth = scores.topk(4, dim=1).values.unbind(1)
        pair = scores.gather(1, torch.stack([wanted, true], 1))
        return (pair[:, 0] - pair[:, 1]) / (first - (third + fourth) / 2).clamp(min=1e-12)

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        return scores.argmax(1) == labels // scores.shape[1]


class _Run(Climb):
    """One run: the last iterate `x`, the `best` by mean loss, and what was seen on the way."""

    def __init__(self, attack: Apgd, objective: Objective, ball: Ball, noise: SeededNoise | Stacked):
        super().__init__(ball.clean)
        self.objective = replace(objective, model=reroute(objective.model, attack.route))
        self.ball, self.noise, self.steps, self.eot = ball, noise, attack.steps, attack.eot
        self.x = ball.random(noise.fresh(0)) if attack.random_start else ball.clean
        self.former, self.best = self.x, self.x.clone()
        self.best_loss = self.x.new_full((len(self.x),), -math.inf)
        self.step = torch.full_like(self.x[:, :1], FIRST_STEP * ball.eps)

    def climb(self, progress: Callable[[], None] | None) -> None:
        marks = checkpoints(self.steps)
        halved, known_best, before = torch.zeros_like(self.queries, dtype=torch.bool), self.best_loss, None
        rises = torch.zeros_like(self.queries)
        for step in range(self.steps + 1):
            slope = self._look(self.active, step + 1)
            self._note(slope)
            if before is not None:
                rises += slope.loss > before
            if step in marks[1:]:
                since = step - marks[marks.index(step) - 1]
                halved = (rises < RISING * since) | (~halved & (self.best_loss <= known_best))
                slope = self._halve(halved.nonzero()[:, 0], slope, self.steps + 2 + step)
                known_best, rises = self.best_loss.clone(), torch.zeros_like(rises)
            before = slope.loss
            if step < self.steps:
                self._move(slope.gradient)
                if progress is not None:
                    progress()

    def _look(self, rows: Tensor, number: int) -> Slope:
        """The loss and its gradient at the iterates of some clips, over the draws of that number."""
        self.queries[rows] += self.eot
        source = self.noise.fresh(number).rows(rows.tolist())
        return self.objective.rows(rows).gradient(self.x[rows], source, self.eot)

    def _note(self, slope: Slope) -> None:
        better = slope.loss > self.best_loss
        self.best = torch.where(better[:, None], self.x, self.best)
        self.best_loss = torch.where(better, slope.loss, self.best_loss)
        self.see(Value(slope.loss, slope.survived))

    def _halve(self, rows: Tensor, slope: Slope, number: int) -> Slope:
        """Let some clips go on from their best iterates with half the step; the slope where all are now."""
        if not len(rows):
            return slope
        self.step = self.step.index_copy(0, rows, self.step[rows] / 2)
        self.x = self.x.index_copy(0, rows, self.best[rows])
        self.former = self.former.index_copy(
            0, rows, self.best[rows]
        )  # the way that led elsewhere is no momentum
        again = self._look(rows, number)
        self.best_loss = self.best_loss.index_copy(0, rows, again.loss)
        return Slope(*(old.index_copy(0, rows, new) for old, new in zip(slope, again, strict=True)))

    def _move(self, gradient: Tensor) -> None:
        ahead = self.ball.project(self.x + self.step * self.ball.ascent(gradient))
        if self.losses[1:]:
            ahead = self.ball.project(self.x + NEW * (ahead - self.x) + (1 - NEW) * (self.x - self.former))
        self.x, self.former = ahead, self.x
