"""The Square attack (Andriushchenko et al. 2020), on recordings and against randomised systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.climb import Climb, choose
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Stacked, Value, randomised
from audiopure.attacks.restarts import counted, groups, joined
from audiopure.attacks.segments import propose, share, stripes
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

LOOKS = 20  # at which clips may leave, in a run


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square: random changes of random segments, each kept if it raises the loss. It asks for losses only.

    On a fixed model a proposal is one pass, compared with the known loss of the incumbent. On a randomised
    one an incumbent that was lucky once would never be beaten again. There each proposal and its incumbent
    are judged together on `eot` draws that are new to both and common to both: an incumbent is as good as
    its latest draws, not its best, and what differs between the two is the change rather than the draws.
    Common draws are what an evaluator can arrange and a stranger cannot: the result is an upper bound of what
    the attack does to a deployed system.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        norm, eps: the budget; the paper's are "linf" .002 and "l2" .253.
        queries: points at which each clip is heard, the start included: passes on a fixed model; on a
            randomised one each costs 2 eot passes.
        p_init: share of the clip that the first proposals change; halved by AutoAttack's schedule.
        tones: segments sound at a random pitch; False is the literal reading of a square in one dimension.
        eot: draws of the defence's randomness that judge a proposal.
        restarts: runs. As many as fit are climbed at once.
        loss: a name in `criteria.CRITERIA`, such as "ce" or "margin", or a `Criterion`.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that judge the runs' last incumbents; by default as many as `eot`.
        leave: a clip leaves a run once all of so many fresh passes fail; None keeps it to the end.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
        max_rows: clips times draws times restarts that go through the model at once.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    queries: int = 5000
    p_init: float = 0.8
    tones: bool = True
    eot: int = 20
    restarts: int = 1
    loss: str | Criterion = "margin"
    targeted: bool = False
    selection: int | None = None
    leave: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "queries", "eot", "restarts", "selection", "leave", "max_rows")
        if not 0 < self.p_init <= 1:
            raise InputError(f"p_init must lie in (0, 1], got {self.p_init}")

    @property
    def cost(self) -> Cost:
        judging = self.selection or self.eot
        climbing = 2 * self.eot * (self.queries - 1) + self.eot + LOOKS * (self.leave or 0)
        return Cost(0, self.restarts * (climbing + judging))

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
        climbs: list[Climb] = []
        points: list[Tensor] = []
        for group in groups(self.restarts, len(waveform) * self.eot, self.max_rows):
            rows = torch.arange(len(waveform), device=waveform.device).repeat(len(group))
            source = joined(noise, group, len(waveform))
            run = _Run(self, objective.rows(rows), ball.rows(rows), source)
            run.climb(counted(progress, len(group)))
            climbs += run.record.apart(len(group))
            points += run.x.chunk(len(group))
        judge, passes = noise.fresh(self.restarts), self.selection or self.eot
        return choose(objective, ball, climbs, points, judge, passes, self.bits)


class _Run:
    """Restarts side by side: incumbents `x` (B, T), what is known of them on a fixed model, the record."""

    def __init__(self, attack: Square, objective: Objective, ball: Ball, noise: SeededNoise | Stacked):
        self.attack, self.objective, self.ball, self.noise = attack, objective, ball, noise
        self.x = stripes(ball, noise.fresh(0))
        self.record = Climb(ball.clean)
        self.known = None if randomised(objective.model) else self._measure(self.x, 0, 1)

    def climb(self, progress: Callable[[], None] | None) -> None:
        for query in range(1, self.attack.queries):
            self._step(query)
            if progress is not None:
                progress()
        rows = self.record.active
        if len(rows):
            self.record.see(self._incumbents() or self._measure(self.x[rows], 0, self.attack.eot))
        else:
            self.record.see(None)

    def _step(self, query: int) -> None:
        """Try one proposal for each active clip."""
        rows = self.record.active
        if not len(rows):
            return self.record.see(None)
        part = share(query, self.attack.queries, self.attack.p_init)
        source = self._source(query, 0).rows(rows.tolist())
        proposal = propose(self.ball.rows(rows), self.x[rows], part, source, self.attack.tones)
        old, new = self._compare(proposal, query)
        self.record.see(old)
        better = new.loss > old.loss
        self.x[rows[better]] = proposal[better]
        if self.known is not None:
            self.known.loss[rows[better]] = new.loss[better]
            self.known.survived[rows[better]] = new.survived[better]
        passes = self.attack.leave
        # looks at luck are few: one that is looked at often enough will fail all passes once
        if passes is not None and query % max(1, self.attack.queries // LOOKS) == 0:
            self.record.leave(self.objective, self.x, self._source(query, 2), passes)

    def _compare(self, proposal: Tensor, query: int) -> tuple[Value, Value]:
        """The active clips' incumbents and their proposals, by the same draws if there are any."""
        old = self._incumbents()
        if old is not None:
            return old, self._measure(proposal, query, 1)
        both = torch.cat([self.x[self.record.active], proposal])
        found = self._measure(both, query, self.attack.eot)
        (loss, new_loss), (survived, new_survived) = (part.chunk(2) for part in found)
        return Value(loss, survived), Value(new_loss, new_survived)

    def _incumbents(self) -> Value | None:
        """What is known of the active clips' incumbents, nothing on a randomised model."""
        rows = self.record.active
        return self.known and Value(self.known.loss[rows], self.known.survived[rows])

    def _measure(self, points: Tensor, query: int, draws: int) -> Value:
        """Loss of points of the active clips, of which there may be several in turn, by common draws."""
        each = len(points) // len(self.record.active)
        rows = self.record.active.repeat(each)
        self.record.queries[self.record.active] += each * draws
        return self.objective.rows(rows).measure(points, self._source(query, 1).rows(rows.tolist()), draws)

    def _source(self, query: int, purpose: int) -> SeededNoise | Stacked:
        return self.noise.fresh(1 + 3 * query + purpose)
