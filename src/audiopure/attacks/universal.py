"""A universal perturbation: one change of the waveform for every clip (Moosavi-Dezfooli et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, ball, unit
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Slope
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

LOST = 0.1  # weight of a clip that no draw withstands; one that all withstand has 1


class Batch(NamedTuple):
    """Clips to learn from: waveform (B, T), labels (B,), and samples of each clip (B,) or None."""

    waveform: Tensor
    labels: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """One perturbation, climbed on the mean loss over clips and draws, added to every clip.

    Each step adds up the clips' gradients at length 1, those of lost clips times a tenth: unweighted, few
    clips' losses outgrow all else and the perturbation speaks one class, whose own clips it then leaves
    right (Shafahi et al. 2020 clip the loss for that). For the same reason iterates are compared by the mean
    share of clips and draws that withstand them, and by the mean loss where that is the same.

    Called on a batch, it learns from that batch and attacks it: unlike that of other attacks, what becomes
    of a clip depends on the clips beside it. For clips that the perturbation has not seen, `train` on some
    and `apply` to others; that is what makes it universal.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md. Clips
    that it has not seen are harder: it speaks one word, so that word's own clips remain right.

    Args:
        norm, eps: the budget, of each attacked clip; L2 is over the whole clip.
        steps: gradient steps, each on one batch, in turn.
        step_size: in the norm of the budget; by default 2.5 eps / steps, but at least eps / 20.
        momentum: share of the former direction that each step keeps.
        shift: largest shift in samples, to either side, by which the perturbation is moved anew at every
            step and clip, so that it need not be played in time; 0 for none. It moves in a circle.
        eot: draws whose gradients are averaged at each step.
        loss, route, targeted, bits: see `Pgd`.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.01
    steps: int = 100
    step_size: float | None = None
    momentum: float = 0.75
    shift: int = 0
    eot: int = 1
    loss: str | Criterion = "margin"
    route: str = "exact"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "steps", "eot", "selection", "max_rows")
        if self.shift < 0:
            raise InputError(f"shift must be 0 or more samples, got {self.shift}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")

    @property
    def step(self) -> float:
        """Length of a step in the norm of the budget."""
        return max(2.5 / self.steps, 0.05) * self.eps if self.step_size is None else self.step_size

    @property
    def cost(self) -> Cost:
        return Cost(self.steps * self.eot, 3 * (self.selection or self.eot))

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
        learning = _Learning(self, model, [Batch(waveform, labels, lengths)], noise)
        delta, slopes = learning.climb(progress)
        adversarial = self.apply(delta, waveform, lengths)
        objective = Objective(model, labels, self.loss, self.targeted, lengths, self.max_rows)
        passes = self.selection or self.eot
        # draws that did not choose between the candidates
        loss = objective.value(adversarial, noise.fresh(self.steps + 1), passes)
        spent = self.steps * self.eot + 3 * passes
        return AttackResult(
            adversarial,
            loss,
            torch.stack([slope.loss for slope in slopes])[None],
            torch.stack([slope.survived for slope in slopes])[None],
            labels.new_full(labels.shape, spent),
        )

    def train(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        noise: SeededNoise,
        progress: Callable[[], None] | None = None,
    ) -> Tensor:
        """A perturbation for clips like these. Shape: (T,), T that of the longest batch.

        Raises InputError if there is no batch, or for clips as when attacking them.
        """
        if not batches:
            raise InputError("a universal perturbation needs clips to learn from")
        return _Learning(self, model, [Batch(*batch) for batch in batches], noise).climb(progress)[0]

    def apply(self, delta: Tensor, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Add a perturbation to clips, repeated if they are longer; the result keeps the budget exactly.

        Shape: (D,), (B, T) -> (B, T). Raises InputError for other shapes.
        """
        if delta.ndim != 1 or len(delta) == 0:
            raise InputError(f"a universal perturbation has shape (time,), got {tuple(delta.shape)}")
        labels = torch.zeros(len(waveform), dtype=torch.long, device=waveform.device)
        around = self._ball(waveform, labels, lengths)
        x = around.project(waveform + _fitted(delta.to(waveform), waveform.shape[1]))
        return around.round16(x) if self.bits == 16 else x


class _Learning:
    """The climb of one perturbation on some batches."""

    def __init__(self, attack: Universal, model: nn.Module, batches: Sequence[Batch], noise: SeededNoise):
        self.attack, self.batches, self.noise = attack, batches, noise
        # two batches' clips of the same place have other noise
        self.names = [noise if len(batches) == 1 else noise.fresh(i) for i in range(len(batches))]
        self.balls = [attack._ball(batch.waveform, batch.labels, batch.lengths) for batch in batches]
        self.objectives = [
            Objective(model, batch.labels, attack.loss, attack.targeted, batch.lengths, attack.max_rows)
            for batch in batches
        ]
        self.paths = [replace(o, model=reroute(o.model, attack.route)) for o in self.objectives]
        length = max(batch.waveform.shape[1] for batch in batches)
        self.admissible: Ball = ball(attack.norm, attack.eps, batches[0].waveform.new_zeros(1, length))

    def climb(self, progress: Callable[[], None] | None) -> tuple[Tensor, list[Slope]]:
        """The better of the last iterate and the best one seen, and the slopes at all iterates."""
        attack, count = self.attack, len(self.batches)
        delta = self.admissible.clean
        best, best_value = delta, (-torch.inf, -torch.inf)
        velocity, slopes = torch.zeros_like(delta), []
        for step in range(attack.steps):
            slope, direction = self._slope(delta[0], step)
            slopes.append(slope)
            # batches differ in difficulty: an iterate is compared with others by a whole round of them
            recent = slopes[-count:]
            value = _value([s.loss for s in recent], [s.survived for s in recent])
            if len(slopes) >= count and value > best_value:
                best, best_value = delta, value
            velocity = attack.momentum * velocity + unit(direction[None])
            delta = self.admissible.project(delta + attack.step * self.admissible.ascent(velocity))
            if progress is not None:
                progress()
        chosen = best if self._judge(best[0]) > self._judge(delta[0]) else delta
        return chosen[0], slopes

    def _slope(self, delta: Tensor, step: int) -> tuple[Slope, Tensor]:
        """Slopes of a batch's clips, and the perturbation's direction. Shape: (D,) -> ..., (D,)."""
        number = step % len(self.batches)
        around, noise = self.balls[number], self.names[number].fresh(step)
        moved = self._moved(len(around.clean), len(delta), noise)
        time = around.clean.shape[1]
        x = around.project(around.clean + delta[moved][:, :time])
        slope = self.paths[number].gradient(x, noise, self.attack.eot)
        gradient = slope.gradient if around.mask is None else slope.gradient * around.mask
        pull = unit(gradient) * (LOST + (1 - LOST) * slope.survived)[:, None]
        direction = torch.zeros_like(delta).index_add(0, moved[:, :time].flatten(), pull.flatten())
        return slope, direction

    def _moved(self, clips: int, length: int, noise: SeededNoise) -> Tensor:
        """Which sample of the perturbation each sample of a clip meets. Shape: (clips, length)."""
        place = torch.arange(length, device=self.admissible.clean.device)
        if self.attack.shift == 0:
            return place.expand(clips, length)
        uniform = torch.special.ndtr(noise.fresh(self.attack.eot).normal((clips, 1), draw=0))
        offset = (uniform * (2 * self.attack.shift + 1)).floor().long() - self.attack.shift
        return (place + offset.to(place.device)) % length

    def _judge(self, delta: Tensor) -> tuple[float, float]:
        """What fresh draws of all clips say of what `apply` makes of them."""
        attack = self.attack
        found = []
        for batch, objective, noise in zip(self.batches, self.objectives, self.names, strict=True):
            x = attack.apply(delta, batch.waveform, batch.lengths)
            found.append(objective.measure(x, noise.fresh(attack.steps), attack.selection or attack.eot))
        return _value([value.loss for value in found], [value.survived for value in found])


def _value(losses: list[Tensor], survived: list[Tensor]) -> tuple[float, float]:
    """What to compare perturbations by, larger being better: share of failures, then mean loss."""
    return -float(torch.cat(survived).mean()), float(torch.cat(losses).mean())


def _fitted(delta: Tensor, length: int) -> Tensor:
    """Cut or repeated to a length. Shape: (D,) -> (length,)."""
    return delta.repeat(-(-length // len(delta)))[:length]
