"""What an attack climbs: a loss of the model's logits, in expectation over the model's own randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.defended import Defended, takes
from audiopure.errors import InputError
from audiopure.noise import NoiseSource
from audiopure.purifier import Purifier

Loss = Literal["ce", "margin"]


@dataclass(frozen=True)
class Stacked:
    """Several noise sources side by side: each gives an equal share of a batch's rows, in turn."""

    sources: tuple[NoiseSource, ...]

    def normal(
        self,
        shape: tuple[int, int],
        *,
        draw: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        rows, rest = divmod(shape[0], len(self.sources))
        if rest:
            raise ValueError(f"{shape[0]} rows cannot be shared equally by {len(self.sources)} noise sources")
        share = (rows, shape[1])
        return torch.cat(
            [s.normal(share, draw=draw, start=start, device=device, dtype=dtype) for s in self.sources]
        )

    def fresh(self, number: int) -> Stacked:
        return Stacked(tuple(source.fresh(number) for source in self.sources))


def call(model: nn.Module, waveform: Tensor, noise: NoiseSource, lengths: Tensor | None) -> Tensor:
    """Logits of a model, which gets `noise` and `lengths` if its `forward` names them.

    Defended models inside one that names no `noise` (`nn.Sequential`) replay it.

    Shape: (B, T) -> (B, C). Raises InputError if the model returns anything else, or holds a purifier that
    the noise cannot reach.
    """
    extras: dict[str, object] = {} if lengths is None or not takes(model, "lengths") else {"lengths": lengths}
    if takes(model, "noise"):
        logits = model(waveform, noise=noise, **extras)
    else:
        with _replayed(model, noise):
            logits = model(waveform, **extras)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(waveform):
        raise InputError("an attack needs a model that returns one row of logits for each clip")
    return logits


@contextmanager
def _replayed(model: nn.Module, noise: NoiseSource) -> Iterator[None]:
    """Within this context every defended model inside `model` uses `noise`, each its own share of it."""
    inside = [module for module in model.modules() if isinstance(module, Defended)]
    reached = {id(module) for defended in inside for module in defended.purifier.modules()}
    for module in model.modules():
        if isinstance(module, Purifier) and module.n_star > 0 and id(module) not in reached:
            raise InputError(
                "the model holds a Purifier whose noise cannot be replayed: let its forward take `noise`, or "
                "use audiopure.defend"
            )
    with ExitStack() as stack:
        for number, defended in enumerate(inside):
            stack.enter_context(defended.replay(noise if number == 0 else noise.fresh(number)))
        yield


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Shape: (B, C), (B,) -> (B,)."""
    own, others = _apart(logits, labels)
    # softmax rounds a confident label's probability to 1 and its gradient to 0; this form keeps it
    return nn.functional.softplus(others.logsumexp(1) - own)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best other logit minus that of the label: positive where the label is not heard.

    Shape: (B, C), (B,) -> (B,).
    """
    own, others = _apart(logits, labels)
    return others.amax(1) - own


def _apart(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own, logits.scatter(1, labels[:, None], -torch.inf)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}


@dataclass(frozen=True)
class Objective:
    """Loss of a batch, to be maximised.

    Args:
        labels: (B,).
        targeted: climb towards `labels` instead of away from them.
        max_rows: clips times draws that go through the model at once; changes memory and speed, not results.
    """

    model: nn.Module
    labels: Tensor
    loss: Loss = "ce"
    targeted: bool = False
    lengths: Tensor | None = None
    max_rows: int = 64

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"there is no loss '{self.loss}'; there are: {', '.join(LOSSES)}")

    def value(self, x: Tensor, noise: NoiseSource, draws: int) -> Tensor:
        """Mean loss over fresh draws: draw k uses `noise.fresh(k)`. Shape: (B, T) -> (B,)."""
        with torch.no_grad():
            parts = [self._losses(x, noise, part).sum(0) for part in self._parts(len(x), draws)]
        return torch.stack(parts).sum(0) / draws

    def gradient(self, x: Tensor, noise: NoiseSource, draws: int) -> tuple[Tensor, Tensor]:
        """Mean loss and the mean of the gradients of the draws' losses. Shape: (B, T) -> (B,), (B, T)."""
        total, slope = x.new_zeros(len(x)), torch.zeros_like(x)
        for part in self._parts(len(x), draws):
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                losses = self._losses(point, noise, part).sum(0)
                (gradient,) = torch.autograd.grad(losses.sum(), point)
            total, slope = total + losses.detach(), slope + gradient
        return total / draws, slope / draws

    def _parts(self, batch: int, draws: int) -> list[range]:
        each = max(1, self.max_rows // max(1, batch))
        return [range(first, min(first + each, draws)) for first in range(0, draws, each)]

    def _losses(self, x: Tensor, noise: NoiseSource, draws: range) -> Tensor:
        """Loss of each clip in each draw. Shape: (B, T) -> (draws, B)."""
        count = len(draws)
        lengths = None if self.lengths is None else self.lengths.repeat(count)
        logits = call(self.model, x.repeat(count, 1), Stacked(tuple(noise.fresh(k) for k in draws)), lengths)
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= logits.shape[1]:
            raise InputError(f"labels must lie between 0 and {logits.shape[1] - 1}, the model's classes")
        losses = LOSSES[self.loss](logits, self.labels.repeat(count))
        return (-losses if self.targeted else losses).unflatten(0, (count, len(x)))
