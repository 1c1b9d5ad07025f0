"""Which modules of a model break its gradient: each is compared with finite differences of its own.

Every submodule that hears the waveform is called again, by itself, at the inputs it gets: does what autograd
says about its output agree with what its output does? A module is judged apart from the rest of the model,
so a break neither hides nor accuses what comes before and after it. Parts of a module that are broken (or
declared approximations) are replaced by smooth stand-ins while it is judged, so that the innermost culprit is
named, and a container only for what its own code does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from audiopure.evaluation.auditing.stand_ins import (
    JITTER,
    Normal,
    StandIns,
    copied,
    differing,
    filled,
    leaves,
)
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

Kind = Literal["no gradient", "steps", "wrong gradient", "error"]

# pairs of steps, relative to the inputs, until the two agree: the later ones for less than double precision
STEPS = {torch.float64: ((1e-6, 1e-7), (1e-4, 1e-5)), torch.float32: ((1e-4, 1e-5), (1e-3, 1e-4))}
STEADY = 0.3  # a larger relative change from one step to the other is no derivative
PRECISE = 1e-3  # a smaller one needs no second pair
TOLERANCE = 0.05  # of a module's error relative to its derivative, beside what the two steps leave open
UNMOVED = "its output does not move"
CALLS = 8  # of a module that are judged
COTANGENTS = 3


class Break(NamedTuple):
    """A module whose gradient is not the derivative of what it does.

    Attributes:
        name: as in `named_modules`; empty for the model itself.
        module: its class.
        kind: "no gradient" (its output follows the waveform, no gradient returns), "steps" (its output moves
            in steps only, or jumps: rounding, sign, argmax), "wrong gradient", or "error" (it raises where
            gradients are wanted).
        declared: it says that it is an approximation.
        detail: what PyTorch said, or how large the error is.
    """

    name: str
    module: str
    kind: Kind
    declared: bool
    detail: str


def declares(module: nn.Module) -> bool:
    """Whether a module says that its gradient is an approximation.

    A purifier does by its `gradient.exact`, any other module by an attribute `bpda` that is True.
    """
    if isinstance(module, Purifier):
        return not module.gradient.exact
    return getattr(module, "bpda", False) is True


def find_breaks(
    model: nn.Module,
    run: Callable[[Tensor], object],
    x: Tensor,
    others: Sequence[Tensor],
    noise: SeededNoise,
    broken: bool,
) -> list[Break]:
    """The innermost modules at fault, in the order in which they finish.

    Args:
        run: calls `model` for a waveform, with all its randomness frozen.
        x: (1, T), float32 or float64, of the model's dtype.
        others: different waveforms of the same shape; a value that is the same for all of them, such as the
            embedding of a noise level, is a constant.
        noise: for the directions.
        broken: the model is known to be. If no module is at fault otherwise, the innermost one whose output
            never moves is: a decision that none of the waveforms changes, or a part that is off.
    """
    judge = _Judge(model, noise)
    with judge.attached(), torch.no_grad():
        for other in others:
            judge.listen()
            run(other)
        judge.listen(judging=True)
        run(x)
    return list(judge.found.values()) or judge.unmoved[: int(broken)]


class _Call(NamedTuple):
    """Arguments (positional, by name) and output of one call of a module."""

    arguments: Any
    output: Any


class _Judge:
    """Hooks on every module: they remember its calls, judge it, or put a stand-in in its place."""

    def __init__(self, model: nn.Module, noise: SeededNoise):
        # TorchScript takes no hooks; the module that holds it is judged
        self.names = {
            module: name
            for name, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        }
        self.declared = {module for module in self.names if declares(module)}
        self.normal = Normal(noise)
        self.found: dict[nn.Module, Break] = {}
        self.unmoved: list[Break] = []
        self.heard: list[dict[tuple[nn.Module, int], _Call]] = []
        self.open: list[tuple[nn.Module, Any]] = []
        self.turns: Counter[nn.Module] = Counter()
        self.judging = False
        self.subject: nn.Module | None = None
        self.stand_ins: StandIns | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.names:
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                after = module.register_forward_hook(self._after, with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def listen(self, judging: bool = False) -> None:
        """Begin another run of the model."""
        self.judging = judging
        self.turns.clear()
        self.open.clear()
        if not judging:
            self.heard.append({})

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._replaced(module):
            self.open.append((module, (args, kwargs)))
            return copied((args, kwargs))  # without a graph, as it may not stand one
        if self.subject is None:
            self.open.append((module, copied((args, kwargs))))  # a module may overwrite its inputs
        return None

    def _replaced(self, module: nn.Module) -> bool:
        within = self.subject is not None and module is not self.subject
        return within and (module in self.found or module in self.declared)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        replaced = self._replaced(module)
        if self.subject is not None and not replaced:
            return None
        opened, arguments = self.open.pop()
        while opened is not module:  # one that raised, and whose caller went on
            opened, arguments = self.open.pop()
        if replaced and self.stand_ins is not None:
            return self.stand_ins(module, arguments, output)
        turn = self.turns[module]
        self.turns[module] += 1
        if turn < CALLS and not self.judging:
            self.heard[-1][module, turn] = _Call(arguments, copied(output))
        elif turn < CALLS and module not in self.found:
            self._judge(module, _Call(arguments, output), turn)
        return None

    def _judge(self, module: nn.Module, call: _Call, turn: int) -> None:
        elsewhere = [run[module, turn] for run in self.heard if (module, turn) in run]
        masks = differing(call.arguments, [other.arguments for other in elsewhere])
        if not any(bool(mask.any()) for mask in masks):
            return
        follows = any(bool(m.any()) for m in differing(call.output, [other.output for other in elsewhere]))
        self.subject, self.stand_ins = module, StandIns(self.normal)
        try:
            # within `inference_mode` tensors are of a kind that autograd refuses
            with torch.inference_mode(False), torch.no_grad():
                verdict = _compare(module, copied(call.arguments), masks, follows, self.stand_ins)
        finally:
            self.subject = self.stand_ins = None
        if verdict is None:
            return
        result = Break(
            self.names[module], type(module).__name__, verdict[0], module in self.declared, verdict[1]
        )
        if result.detail == UNMOVED:
            self.unmoved.append(result)
        else:
            self.found[module] = result


def _compare(
    module: nn.Module, arguments: Any, masks: Sequence[Tensor], follows: bool, stand_ins: StandIns
) -> tuple[Kind, str] | None:
    """What is wrong with a module at some arguments, if anything is, and the detail."""

    def outputs(inputs: Sequence[Tensor]) -> Tensor:
        args, kwargs = filled(arguments, [z.clone() for z in inputs])
        values = [torch.view_as_real(v) if v.is_complex() else v for v in leaves(module(*args, **kwargs))]
        return torch.cat([v.flatten() for v in values]) if values else torch.zeros(0)

    normal = stand_ins.normal
    # relative changes keep zeros, such as the output of a ReLU or padding, away from their kinks
    point = [z + JITTER * z * normal(z, 1) * m for z, m in zip(leaves(arguments), masks, strict=True)]
    along = [z * normal(z, 2) * m for z, m in zip(point, masks, strict=True)]
    try:
        base = outputs(point)
        stand_ins.learning = False
    except RuntimeError:
        return None  # it cannot be called by itself; the module that holds it is judged
    if not len(base):
        return None
    derivative, blur = _derivative(outputs, point, along, STEPS.get(base.dtype, STEPS[torch.float32]))
    if derivative is None:
        return "steps", "its output jumps"
    cotangents = [normal(derivative, 10 + k) for k in range(COTANGENTS)]
    try:
        slopes = _slopes(outputs, point, along, masks, cotangents)
    except RuntimeError as error:
        return "error", str(error).splitlines()[0]
    size = float(derivative.norm())
    if size == 0:
        return "steps", "its output moves in steps only" if follows else UNMOVED
    if not any(slopes):
        return "no gradient", ""
    errors = [s - float(v @ derivative) for s, v in zip(slopes, cotangents, strict=True)]
    error = math.sqrt(sum(e * e for e in errors) / len(errors)) / size
    # a gradient that is not a number fails
    return None if error <= TOLERANCE + 3 * blur else ("wrong gradient", f"off by {100 * error:.0f} %")


def _derivative(
    outputs: Callable[[Sequence[Tensor]], Tensor],
    point: Sequence[Tensor],
    along: Sequence[Tensor],
    steps: Sequence[tuple[float, float]],
) -> tuple[Tensor | None, float]:
    """Of the outputs along a direction, (n,), or None if there is none; and how uncertain it is, relative."""

    def difference(step: float) -> Tensor:
        ahead, behind = (
            outputs([z + sign * step * d for z, d in zip(point, along, strict=True)]) for sign in (1, -1)
        )
        return (ahead - behind) / (2 * step)

    best, blur, flat = None, STEADY, True
    for pair in steps:
        long, short = (difference(step) for step in pair)
        larger = max(float(long.norm()), float(short.norm()))
        if larger == 0 and flat:
            best, blur = long, 0.0
            continue
        if flat and best is not None:
            return None, 0.0  # short steps change nothing and long ones do
        flat, change = False, float((long - short).norm()) / larger if larger > 0 else math.inf
        if change < blur:
            best, blur = long, change
        if change < PRECISE:
            break
    return best, blur


def _slopes(
    outputs: Callable[[Sequence[Tensor]], Tensor],
    point: Sequence[Tensor],
    along: Sequence[Tensor],
    masks: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> list[float]:
    """What autograd says of each cotangent's product with the derivative."""
    with torch.enable_grad():
        inputs = [z.detach().requires_grad_(bool(m.any())) for z, m in zip(point, masks, strict=True)]
        values = outputs(inputs)
    if not values.requires_grad:
        return [0.0] * len(cotangents)
    heard = [(z, d, m) for z, d, m in zip(inputs, along, masks, strict=True) if z.requires_grad]
    slopes = []
    for cotangent in cotangents:
        gradients = torch.autograd.grad(
            values, [z for z, _, _ in heard], cotangent, retain_graph=True, allow_unused=True
        )
        parts = [
            float((g.conj() * d).real[m].sum())
            for g, (_, d, m) in zip(gradients, heard, strict=True)
            if g is not None
        ]
        slopes.append(sum(parts, 0.0))
    return slopes
