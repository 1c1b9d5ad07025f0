"""AutoAttack's white-box part for randomised defences (Croce & Hein 2020, Croce et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.apgd import Apgd
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.objective import Objective
from audiopure.noise import SeededNoise


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """Auto-PGD by cross-entropy, by DLR and, on request, towards wrong classes, each through EOT.

    Each clip keeps what has the largest mean margin (best wrong logit minus the true one) over `selection`
    fresh passes: the clip itself or the find of one of the attacks, all seen through the same draws. It is
    attacked no more once all of those passes fail. As in AutoAttack's own version for randomised models
    there is no FAB, whose minimal changes mean little there; Square is an attack of its own.

    Where an attack left a clip out, its `history` holds the clip's mean margin; else that of an attack holds
    the loss that it climbed.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        norm, eps: the budget.
        steps, eot, restarts, route, bits, max_rows: those of each `Apgd`; only the untargeted ones restart.
        targets: wrong classes that APGD-T runs towards, the likeliest first; None goes without it.
        selection: fresh passes that judge what a clip keeps, and whether it is attacked on.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.002
    steps: int = 100
    eot: int = 20
    restarts: int = 1
    targets: int | None = None
    route: str = "exact"
    selection: int = 20
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "selection")
        _ = self.members

    @property
    def cost(self) -> Cost:
        parts = [member.cost for member in self.members]
        judging = (len(parts) + 1) * self.selection
        return Cost(sum(part.gradients for part in parts), sum(part.forwards for part in parts) + judging)

    @property
    def members(self) -> tuple[Apgd, ...]:
        """The attacks, in the order in which they run."""

        def member(loss: str, restarts: int, targets: int | None = None) -> Apgd:
            return Apgd(
                norm=self.norm,
                eps=self.eps,
                steps=self.steps,
                eot=self.eot,
                restarts=restarts,
                loss=loss,
                targets=targets,
                route=self.route,
                selection=self.selection,
                bits=self.bits,
                max_rows=self.max_rows,
            )

        plain = (member("ce", self.restarts), member("dlr", self.restarts))
        return plain if self.targets is None else (*plain, member("dlr", 1, self.targets))

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
        judge = Objective(model, labels, "margin", False, lengths, self.max_rows)
        jury = noise.fresh(len(self.members))
        best = ball.round16(waveform) if self.bits == 16 else waveform
        loss, survived = judge.measure(best, jury, self.selection)
        queries = torch.full_like(labels, self.selection, dtype=torch.long)
        histories: list[Tensor] = []
        shares: list[Tensor] = []
        for number, member in enumerate(self.members):
            rows = survived.nonzero()[:, 0]
            if not len(rows):
                histories.append(loss.expand(member.runs, self.steps + 1, -1))
                shares.append(survived.expand(member.runs, self.steps + 1, -1))
                continue
            index, own = rows.tolist(), None if lengths is None else lengths[rows]
            source = noise.fresh(number).rows(index)
            found = member(model, waveform[rows], labels[rows], noise=source, lengths=own, progress=progress)
            verdict = judge.rows(rows).measure(found.adversarial, jury.rows(index), self.selection)
            histories.append(_spread(found.history, rows, loss))
            shares.append(_spread(found.survived, rows, survived))
            queries[rows] += found.queries + self.selection
            better = verdict.loss > loss[rows]
            won = rows[better]
            best = best.index_copy(0, won, found.adversarial[better])
            loss = loss.index_copy(0, won, verdict.loss[better])
            survived = survived.index_copy(0, won, verdict.survived[better])
        return AttackResult(best, loss, torch.cat(histories), torch.cat(shares), queries)


def _spread(part: Tensor, rows: Tensor, rest: Tensor) -> Tensor:
    """What is known of some clips, among the constants of the others. Shape: (runs, n, k) -> (runs, n, B)."""
    return rest.expand(*part.shape[:2], -1).index_copy(2, rows, part)
