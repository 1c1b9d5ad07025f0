"""Transfer: an attack on another model, tried on the victim. MI-FGSM (Dong et al. 2018) makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from audiopure.attacks.apgd import Apgd
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.objective import Objective
from audiopure.attacks.pgd import Pgd
from audiopure.noise import SeededNoise


@dataclass(frozen=True, kw_only=True)
class MiFgsm(Pgd):
    """MI-FGSM (Dong et al. 2018, algorithm 1): sign steps along gradients that add up.

    It starts at the clip, and `momentum` is 1 so that no gradient is forgotten. Gradients are scaled to an L1
    norm of 1 where `Pgd` scales to an L2 norm of 1: that changes the weights of steps by how sparse their
    gradients are, and nothing else. Two things are not the original's: what is returned is the iterate of
    largest mean loss, which may be an earlier one than the last; and a step is eps / 2 long. The original's
    eps / steps reaches the border of the ball only where no sign ever turns, and transfers less.
    """

    steps: int = 10
    momentum: float = 1.0
    random_start: bool = False

    @property
    def step(self) -> float:
        return self.eps / 2 if self.step_size is None else super().step

    def scaled(self, gradient: Tensor) -> Tensor:
        size = gradient.abs().sum(-1, keepdim=True)
        return gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Attack a surrogate, and judge what comes of it on the victim (appendix B of the paper).

    The victim answers only the fresh passes of the judgement, whose mean the result reports; nothing is
    selected by them. A surrogate taught by the victim's answers is `training.surrogate.train_surrogate`.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md.

    Args:
        inner: the attack on the surrogate, with its budget, goal and rounding.
        surrogate: waveforms (B, T) to logits (B, C) in the order of the victim's classes, in eval mode.
        selection: fresh passes through the victim that judge the result.
    """

    surrogate: nn.Module = field(repr=False)
    inner: Pgd | Apgd = MiFgsm()
    selection: int = 8

    def __post_init__(self) -> None:
        check_settings(self, "selection")

    @property
    def cost(self) -> Cost:
        """Of the victim and the surrogate together."""
        made = self.inner.cost
        return Cost(made.gradients, made.forwards + self.selection)

    @property
    def norm(self) -> str:
        return self.inner.norm

    @property
    def eps(self) -> float:
        return self.inner.eps

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
        made = self.inner(
            self.surrogate, waveform, labels, noise=noise.fresh(0), lengths=lengths, progress=progress
        )
        victim = Objective(
            model, labels, self.inner.loss, self.inner.targeted, lengths, max_rows=self.inner.max_rows
        )
        found = victim.measure(made.adversarial, noise.fresh(1), self.selection)
        spent = labels.new_full(labels.shape, self.selection)
        return AttackResult(
            made.adversarial, found.loss, found.loss[None, None], found.survived[None, None], spent
        )
