"""What an attack climbs: a loss of the model's logits, in expectation over the model's own randomness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiopure.attacks.criteria import Criterion, criterion
from audiopure.defended import Guarded, takes
from audiopure.errors import InputError
from audiopure.noise import NoiseSource
from audiopure.purifier import Purifier


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

    def rows(self, index: Sequence[int]) -> Stacked:
        """The same noise for some rows of a batch in which each source has one row."""
        return Stacked(tuple(self.sources[i] for i in index))


def call(model: nn.Module, waveform: Tensor, noise: NoiseSource, lengths: Tensor | None) -> Tensor:
    """Logits of a model, which gets `noise` and `lengths` if its `forward` names them.

    Guarded models inside one that names no `noise` (`nn.Sequential`) replay it.

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
    inside = [module for module in model.modules() if isinstance(module, Guarded)]
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


class Value(NamedTuple):
    """Means over draws: `loss` (B,), and `survived` (B,), the share of draws that withstand the attack."""

    loss: Tensor
    survived: Tensor


class Slope(NamedTuple):
    """A `Value`, and the mean over draws of the loss's gradient, `gradient` (B, T)."""

    loss: Tensor
    survived: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Objective:
    """Loss of a batch, to be maximised.

    Args:
        labels: (B,).
        loss: a name in CRITERIA, or a goal of one's own.
        targeted: climb towards `labels` instead of away from them.
        max_rows: clips times draws that go through the model at once; changes memory and speed, not results.
    """

    model: nn.Module
    labels: Tensor
    loss: str | Criterion = "ce"
    targeted: bool = False
    lengths: Tensor | None = None
    max_rows: int = 64

    @cached_property
    def criterion(self) -> Criterion:
        return criterion(self.loss, self.targeted)

    def __post_init__(self) -> None:
        _ = self.criterion

    def rows(self, index: Tensor) -> Objective:
        """The objective of some clips of the batch. Shape: index (k,)."""
        lengths = None if self.lengths is None else self.lengths[index]
        return replace(self, labels=self.labels[index], lengths=lengths)

    def value(self, x: Tensor, noise: NoiseSource, draws: int) -> Tensor:
        """Mean loss over fresh draws: draw k uses `noise.fresh(k)`. Shape: (B, T) -> (B,)."""
        return self.measure(x, noise, draws).loss

    def measure(self, x: Tensor, noise: NoiseSource, draws: int) -> Value:
        """Mean loss over fresh draws, as in `value`, and the share of them that withstood. Shape: (B, T)."""
        loss, survived = x.new_zeros(len(x)), x.new_zeros(len(x))
        with torch.no_grad():
            for part in self._parts(len(x), draws):
                losses, verdicts = self._losses(x, noise, part)
                loss, survived = loss + losses.sum(0), survived + verdicts.sum(0)
        return Value(loss / draws, survived / draws)

    def gradient(self, x: Tensor, noise: NoiseSource, draws: int) -> Slope:
        """As `measure`, with the mean of the gradients of the draws' losses. Shape: (B, T)."""
        loss, survived, slope = x.new_zeros(len(x)), x.new_zeros(len(x)), torch.zeros_like(x)
        for part in self._parts(len(x), draws):
            with torch.enable_grad():
                point = x.detach().requires_grad_()
                losses, verdicts = self._losses(point, noise, part)
                (gradient,) = torch.autograd.grad(self.steered(losses), point)
            loss, survived = loss + losses.detach().sum(0), survived + verdicts.sum(0)
            slope = slope + gradient
        return Slope(loss / draws, survived / draws, slope / draws)

    def steered(self, losses: Tensor) -> Tensor:
        """What `gradient` differentiates, from the losses (draws, B) of one pass: their sum.

        An attack may add what shall steer it but not judge its iterates.
        """
        return losses.sum()

    def _parts(self, batch: int, draws: int) -> list[range]:
        each = max(1, self.max_rows // max(1, batch))
        return [range(first, min(first + each, draws)) for first in range(0, draws, each)]

    def each(self, points: Tensor, sources: Sequence[NoiseSource]) -> tuple[Tensor, Tensor]:
        """Loss at several points of each clip, and whether it withstood; point k is heard with `sources[k]`.

        All points go through the model at once.

        Shape: (k, B, T) -> (k, B) twice. Raises InputError for labels that the model does not have.
        """
        shape = points.shape[:2]
        lengths = None if self.lengths is None else self.lengths.repeat(shape[0])
        scores = call(self.model, points.flatten(0, 1), Stacked(tuple(sources)), lengths)
        labels, classes = self.labels.repeat(shape[0]), self.criterion.classes(scores)
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise InputError(f"labels must lie between 0 and {classes - 1}, the model's classes")
        losses = self.criterion.loss(scores, labels).unflatten(0, shape)
        return losses, self.criterion.survived(scores.detach(), labels).unflatten(0, shape)

    def _losses(self, x: Tensor, noise: NoiseSource, draws: range) -> tuple[Tensor, Tensor]:
        """Loss of each clip in each draw, and whether it withstood. Shape: (B, T) -> (draws, B) twice."""
        return self.each(x.expand(len(draws), *x.shape), [noise.fresh(k) for k in draws])


def randomised(model: nn.Module) -> bool:
    """Whether two passes may differ: a defence draws noise, or the model takes some."""
    if any(isinstance(module, Purifier) and module.random for module in model.modules()):
        return True
    while isinstance(model, Guarded):  # which takes noise whether or not it has any use for it
        if getattr(model.purifier, "random", True):
            return True
        model = model.model
    return takes(model, "noise")
