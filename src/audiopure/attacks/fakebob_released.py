"""What AudioPure's code runs under the name FAKEBOB; for comparison with `fakebob`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from audiopure.attacks.base import AttackResult, Cost
from audiopure.attacks.climb import choose
from audiopure.attacks.fakebob_loop import Descent, SignDescent
from audiopure.attacks.objective import Objective
from audiopure.noise import SeededNoise


@dataclass(frozen=True, kw_only=True)
class FakebobReleased(SignDescent):
    """The "FAKEBOB" of AudioPure's released code (Wu et al. 2023), faults included. Not FAKEBOB.

    It climbs the cross-entropy, while the loop around it still takes the loss for a quantity that falls:

    1. a rising loss counts as a plateau, so steps that succeed halve the next ones, down to 1e-6;
    2. at step 100 every clip whose loss has grown leaves as converged;
    3. the audio returned is that of lowest loss, as a rule the clean clip;
    4. no clip leaves for having succeeded, as that asks for a negative cross-entropy; `confidence` has no
       effect and is left out here.

    Its paper counts success by any wrong answer on the way, one random pass an iterate. The audio returned
    does not show that; `survived` does, which is 0 for an iterate whose pass failed:
    `(result.survived == 0).flatten(0, 1).any(0)` is the success that the code reports. Against a randomised
    system that counts luck, and a clip misheard from the start counts as attacked.

    With targets the cross-entropy falls and points 1 to 3 do not apply.

    It cannot break a recogniser by the audio it returns, which is the clean clip.

    Args:
        bits: 16 rounds the result to 16-bit samples within the budget, None keeps floating point.
    """

    steps: int = 200
    samples: int = 200

    def minimised(self, loss: Tensor) -> Tensor:
        # the cross-entropy itself, in both directions of the attack
        return -loss if self.targeted else loss

    @property
    def cost(self) -> Cost:
        return Cost(0, self.climbing(1).forwards + 1)

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
        objective = Objective(model, labels, "ce", self.targeted, lengths, self.max_rows)
        descent = Descent(self, objective, ball, noise.fresh(0), eot=1)
        descent.run(progress)
        return choose(objective, ball, [descent.climb], [descent.best], noise.fresh(1), 1, self.bits)
