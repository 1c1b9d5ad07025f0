"""FAKEBOB (Chen et al. 2021, "Who is real Bob?"), as its authors define it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from audiopure.attacks.base import AttackResult, Cost, check_settings
from audiopure.attacks.climb import choose
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.fakebob_loop import Descent, SignDescent
from audiopure.attacks.objective import Objective
from audiopure.errors import InputError
from audiopure.noise import SeededNoise


@dataclass(frozen=True, kw_only=True)
class Fakebob(SignDescent):
    """FAKEBOB: needs scores, not gradients, of a recogniser of words or speakers.

    It minimises `confidence - loss`, and a clip leaves once that is negative. The loss names the task:
    "margin" for words and closed-set identification, `criteria.Verification(threshold)` for verification,
    `criteria.OpenSet(threshold)` for open-set identification; `speaker_threshold.estimate_threshold` finds a
    threshold that a system keeps to itself.

    Its authors' loop knows nothing of randomised systems: a clip would leave at its first lucky draw. With
    `selection` above one, a clip leaves only once the mean loss over so many fresh passes is large enough as
    well, and the last iterate and the best are compared over as many.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        confidence: margin that the attack asks for (kappa), in units of the scores.
        eot: draws of the defence's randomness whose mean loss decides whether an iterate is good enough to
            leave; the authors' is 1. The passes of a gradient's estimate have one draw each.
        loss: a name in `criteria.CRITERIA`, or a `Criterion` that is positive where the attack succeeds.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws that confirm a success, and that judge the candidates; by default no success
            is confirmed, and as many as `eot` judge.
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
    """

    confidence: float = 0.0
    eot: int = 1
    loss: str | Criterion = "margin"
    selection: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, "eot", "selection")
        if not 0 <= self.confidence < float("inf"):
            raise InputError(f"confidence must be at least 0 and finite, got {self.confidence}")

    @classmethod
    def paper(cls) -> Self:
        """The settings in AudioPure's section 4.1 (Wu et al. 2023): 200 steps, 200 samples, kappa .5."""
        return cls(steps=200, samples=200, confidence=0.5)

    def minimised(self, loss: Tensor) -> Tensor:
        return self.confidence - loss

    @property
    def confirmations(self) -> int | None:
        """Fresh draws that confirm a success, None where it is not confirmed."""
        return None if self.selection == 1 else self.selection

    @property
    def cost(self) -> Cost:
        climbing = self.climbing(self.eot, self.confirmations)
        return Cost(0, climbing.forwards + 2 * (self.selection or self.eot))

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
        descent = Descent(self, objective, ball, noise.fresh(0), self.eot, self.confirmations)
        descent.run(progress)
        candidates, passes = [descent.best, descent.x], self.selection or self.eot
        return choose(objective, ball, [descent.climb], candidates, noise.fresh(1), passes, self.bits)
