"""The L2 attack of Carlini & Wagner (2017), in expectation over the defence's randomness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, ball
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.climb import Climb
from audiopure.attacks.criteria import Margin
from audiopure.attacks.objective import Objective, Value
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

INSIDE = 1 - 1e-6  # full scale is at infinity in the space of the arc tangents
SHORTER = 0.99  # an iterate is looked at again where its distance is below that share of the shortest
ADAM = (0.9, 0.999, 1e-8)  # Kingma & Ba 2015


@dataclass(frozen=True)
class Confident(Margin):
    """The margin, where a pass withstands unless the margin of a wrong answer exceeds `kappa`."""

    kappa: float = 0.0

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        return super().loss(scores, labels) <= self.kappa


@dataclass(frozen=True)
class Hinge(Confident):
    """The margin up to `kappa`, beyond which there is nothing to win (the paper's f_6, negated)."""

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return (super().loss(scores, labels) - self.kappa).clamp(max=0)


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """The smallest change, in L2, that the system fails on.

    Minimises |x - clip|^2 + c E[max(kappa - margin, 0)] by Adam over the arc hyperbolic tangents of the
    samples, which keeps to full scale; the expectation is over EOT draws. Searches for the smallest c that
    succeeds: ten times larger until one does, then halfway between the last success and the last failure.

    An iterate of a randomised system succeeds if more than a share `success` of passes fail: of its EOT draws
    and then, once rounded, of `selection` new ones. The shortest success of each search is looked at again
    over draws that are new and the same for all.

    What is returned depends on the norm. "free" is the paper's attack: the shortest of those that succeed
    again, else the iterate of largest mean margin. With "l2" the budget is given, and what counts is how
    surely the system fails within it: the largest mean margin among the same iterates, shortened to the
    budget if they are beyond, and each once more with its change stretched to the whole budget.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        norm, eps: "l2" and a budget, or "free" and infinity.
        steps: of each search; the authors' code takes 10,000 for images and may stop early.
        searches: values of c tried.
        constant: the first c.
        rate: learning rate of Adam; theirs is .01. Samples of audio change by less than pixels: with .001,
            100 steps find shorter changes than 300 with .01.
        kappa: margin that a success must exceed.
        eot: draws of the defence's randomness whose loss gradients are averaged at each step.
        success: share of the passes that must be exceeded by those that fail.
        route: how gradients pass through purifiers, a name in `routes.ROUTES`; "exact" is the honest one.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge; by default as many as `eot`.
        bits: 16 rounds to 16-bit samples within the budget, None keeps floating point.
        max_rows: clips times draws that go through the model at once.

    In its result the losses are mean margins, those of the history up to `kappa`, and a pass is `survived`
    unless the margin exceeds `kappa`; the runs are the searches.
    """

    norm: Literal["l2", "free"] = "l2"
    eps: float = 0.253
    steps: int = 300
    searches: int = 9
    constant: float = 1e-3
    rate: float = 1e-3
    kappa: float = 0.0
    eot: int = 1
    success: float = 0.5
    route: str = "exact"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        counts = ("steps", "searches", "eot", "selection", "max_rows")
        check_settings(self, *counts, norms=("l2", "free"))
        for name in ("constant", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.success < 1:
            raise InputError(f"success must lie in [0, 1), got {self.success}")
        if not 0 <= self.kappa < math.inf:
            raise InputError(f"kappa must be at least 0 and finite, got {self.kappa}")

    @property
    def cost(self) -> Cost:
        looks, passes = self.searches * (self.steps + 1), self.selection or self.eot
        candidates = (self.searches + 1) * (2 if self.norm == "l2" else 1)
        return Cost(looks * self.eot, (looks + candidates) * passes)

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
        budget = self._ball(waveform, labels, lengths)
        goal = Confident(self.targeted, self.kappa)
        judge = Objective(model, labels, goal, lengths=lengths, max_rows=self.max_rows)
        search = _Search(self, judge, ball("free", math.inf, waveform, lengths))
        found = [search.run(noise.fresh(number), progress) for number in range(self.searches)]
        candidates = self._candidates(budget, [*found, search.x])
        passes = self.selection or self.eot
        verdicts = [judge.measure(x, noise.fresh(self.searches), passes) for x in candidates]
        losses = torch.stack([verdict.loss for verdict in verdicts])
        choice = losses.argmax(0)
        if self.norm == "free":
            fails = torch.stack([verdict.survived for verdict in verdicts]) < 1 - self.success
            far = torch.stack([_distance(x, waveform) for x in candidates])
            choice = torch.where(fails.any(0), far.where(fails, far.new_tensor(math.inf)).argmin(0), choice)
        rows = torch.arange(len(waveform), device=waveform.device)
        return AttackResult(
            torch.stack(candidates)[choice, rows],
            losses[choice, rows],
            torch.stack(search.losses).unflatten(0, (self.searches, -1)),
            torch.stack(search.survived).unflatten(0, (self.searches, -1)),
            search.queries + len(candidates) * passes,
        )

    def _candidates(self, budget: Ball, found: list[Tensor]) -> list[Tensor]:
        if self.norm == "l2":
            clean = budget.clean
            stretch = [self.eps / _distance(x, clean).clamp(min=1e-12)[:, None] for x in found]
            found += [clean + (x - clean) * by.to(x.dtype) for x, by in zip(found, stretch, strict=True)]
        return [budget.round16(x) if self.bits == 16 else budget.project(x) for x in found]


class _Search(Climb):
    """The searches for the constant: that of each clip, its last iterate `x`, and what was seen."""

    def __init__(self, attack: CarliniWagner, judge: Objective, free: Ball):
        super().__init__(free.clean)
        self.attack, self.judge, self.free = attack, judge, free
        routed, goal = reroute(judge.model, attack.route), Hinge(attack.targeted, attack.kappa)
        self.objective = replace(judge, model=routed, loss=goal)
        self.x = free.clean
        self.constant = torch.full_like(self.x[:, :1], attack.constant)
        self.failed, self.worked = torch.zeros_like(self.constant), torch.full_like(self.constant, math.inf)

    def run(self, noise: SeededNoise, progress: Callable[[], None] | None) -> Tensor:
        """One search: its shortest success, or its last iterate where there is none. Shape: (B, T)."""
        best, shortest = self.free.clean, self.x.new_full((len(self.x),), math.inf, dtype=torch.float64)
        angle = (self.free.clean * INSIDE).atanh()
        first, second = torch.zeros_like(angle), torch.zeros_like(angle)
        self.x = self.free.project(angle.tanh())
        for step in range(self.attack.steps + 1):
            slope = self.objective.gradient(self.x, noise.fresh(2 * step), self.attack.eot)
            self.queries[self.active] += self.attack.eot
            self.see(Value(slope.loss, slope.survived))
            fails = slope.survived < 1 - self.attack.success
            best, shortest = self._confirm(fails, best, shortest, noise.fresh(2 * step + 1))
            if step == self.attack.steps:
                break
            downhill = self._downhill(slope.gradient)
            first = ADAM[0] * first + (1 - ADAM[0]) * downhill
            second = ADAM[1] * second + (1 - ADAM[1]) * downhill.square()
            size = (second / (1 - ADAM[1] ** (step + 1))).sqrt() + ADAM[2]
            angle = angle - self.attack.rate * first / (1 - ADAM[0] ** (step + 1)) / size
            self.x = self.free.project(angle.tanh())
            if progress is not None:
                progress()
        worked = shortest.isfinite()[:, None]
        self._adjust(worked)
        return torch.where(worked, best, self.x)

    def _downhill(self, gradient: Tensor) -> Tensor:
        """The gradient of what is minimised, in the space of the arc tangents."""
        total = 2 * (self.x - self.free.clean) - self.constant * gradient
        return total * (1 - self.x.square())

    def _confirm(
        self, fails: Tensor, best: Tensor, shortest: Tensor, noise: SeededNoise
    ) -> tuple[Tensor, Tensor]:
        """The shortest successes, after a look through fresh passes at what may be a shorter one."""
        x = self.free.round16(self.x) if self.attack.bits == 16 else self.x
        far = _distance(x, self.free.clean)
        rows = (fails & (far < SHORTER * shortest)).nonzero()[:, 0]
        if not len(rows):
            return best, shortest
        passes = self.attack.selection or self.attack.eot
        found = self.judge.rows(rows).measure(x[rows], noise.rows(rows.tolist()), passes)
        self.queries[rows] += passes
        good = rows[found.survived < 1 - self.attack.success]
        return best.index_copy(0, good, x[good]), shortest.index_copy(0, good, far[good])

    def _adjust(self, worked: Tensor) -> None:
        """The constants of the next search. Shape: (B, 1) bool."""
        self.worked = torch.where(worked, self.constant, self.worked)
        self.failed = torch.where(worked, self.failed, self.constant)
        between = (self.failed + self.worked) / 2
        self.constant = torch.where(self.worked.isfinite(), between, 10 * self.constant)


def _distance(x: Tensor, clean: Tensor) -> Tensor:
    """Euclidean, in double precision. Shape: (B, T), (B, T) -> (B,)."""
    return (x.double() - clean.double()).norm(dim=1)
