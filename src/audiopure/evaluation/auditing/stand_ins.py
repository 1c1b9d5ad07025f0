"""Arguments and outputs of modules as nested tensors, and smooth functions that stand in for modules.

Tensors of real or complex floating point are the leaves of nested tuples, lists and dicts; all else, such
as indices, masks and noise sources, is constant.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.noise import SeededNoise

JITTER = 1e-3  # relative, against ties (of rounded values in a maximum, say), where no derivative exists


def leaves(nested: Any) -> list[Tensor]:
    """The leaves, in order."""
    return list(_walk(nested))


def copied(nested: Any) -> Any:
    """The same with every tensor copied, apart from any graph."""
    return _mapped(nested, lambda tensor: tensor.detach().clone())


def filled(nested: Any, values: Sequence[Tensor]) -> Any:
    """The same with `values` as its leaves."""
    supply = iter(values)
    return _mapped(nested, lambda tensor: next(supply) if _is_leaf(tensor) else tensor)


def differing(nested: Any, others: Sequence[Any]) -> list[Tensor]:
    """Bool tensors: where each leaf differs in any of `others`; everywhere if shapes do, or there is none."""
    own, theirs = leaves(nested), [leaves(other) for other in others]
    if not theirs or any([t.shape for t in their] != [o.shape for o in own] for their in theirs):
        return [torch.ones_like(leaf, dtype=torch.bool) for leaf in own]
    return [
        torch.stack([leaf != other for other in same]).any(0)
        for leaf, *same in zip(own, *theirs, strict=True)
    ]


@dataclass(frozen=True)
class Normal:
    """Normal values in the shape of a tensor, replayable."""

    noise: SeededNoise

    def __call__(self, like: Tensor, number: int) -> Tensor:
        values = self.noise.for_items([0]).normal((1, like.numel()), draw=number, device=like.device)
        return values.reshape(like.shape).to(like.real.dtype if like.is_complex() else like.dtype)


class StandIns:
    """Replaces modules, near the inputs of their first calls, by smooth functions with much the same outputs.

    Every output is scaled by 1 + u s, u a fixed random vector and s a random linear function of the inputs.
    A call is told by its inputs, since checkpointing repeats calls in another order.
    """

    def __init__(self, normal: Normal):
        self.normal = normal
        self.known: dict[nn.Module, list[_StandIn]] = {}
        self.learning = True  # turned off once all calls to replace have been seen

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        if self.learning:
            self.known.setdefault(module, []).append(_StandIn(self.normal, copied(arguments), copied(output)))
        if module not in self.known:
            return output
        nearest = min(self.known[module], key=lambda stand_in: stand_in.distance(arguments))
        return nearest(arguments)


@dataclass(frozen=True)
class _StandIn:
    normal: Normal
    arguments: Any
    output: Any

    def distance(self, arguments: Any) -> float:
        pairs = zip(leaves(arguments), leaves(self.arguments), strict=False)
        return sum(float((a.detach() - b).abs().sum()) for a, b in pairs if a.shape == b.shape)

    def __call__(self, arguments: Any) -> Any:
        moved: Any = 0.0
        power = 0.0
        for k, (now, then) in enumerate(zip(leaves(arguments), leaves(self.arguments), strict=False)):
            change = (now - then) * self.normal(then, 30 + k)
            moved = moved + (change.real.sum() + change.imag.sum() if change.is_complex() else change.sum())
            power += float(then.abs().square().sum())
        scaled = [
            # equal values would tie in a maximum that follows
            leaf
            * (1 + JITTER * self.normal(leaf, 50 + k))
            * (1 + self.normal(leaf, 70 + k) * moved / (power**0.5 or 1.0))
            for k, leaf in enumerate(leaves(self.output))
        ]
        return filled(self.output, scaled)


def _is_leaf(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _walk(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        if _is_leaf(nested):
            yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from _walk(value)
    elif isinstance(nested, tuple | list):
        for value in nested:
            yield from _walk(value)


def _mapped(nested: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(nested, Tensor):
        return change(nested)
    if isinstance(nested, dict):
        twin = copy.copy(nested)
        for key, value in nested.items():
            twin[key] = _mapped(value, change)
        return twin
    if isinstance(nested, tuple | list):
        values = [_mapped(value, change) for value in nested]
        return type(nested)(*values) if hasattr(nested, "_fields") else type(nested)(values)
    return nested
