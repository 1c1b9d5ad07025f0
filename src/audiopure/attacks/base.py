"""What every attack shares: its interface, its result, and how its victims are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, ball
from audiopure.attacks.objective import Stacked, call
from audiopure.errors import InputError
from audiopure.noise import SeededNoise


@dataclass(frozen=True)
class AttackResult:
    """What an attack found: exact in its budget in float32 and, if rounded, for 16-bit samples.

    Attributes:
        adversarial: (B, T), within the attack's budget and [-1, 1]; equal to the clip beyond its length.
        loss: (B,) mean attack loss of `adversarial` over fresh passes; larger is better for the attacker.
        history: (runs, iterates, B) mean loss of each iterate of each restart, as seen while climbing; the
            last value stays where a clip has left.
        survived: (runs, iterates, B) share of the draws of each iterate that withstood it. The draws are new
            to the iterate, so this is an unbiased estimate of its accuracy, for the model that was climbed: a
            route other than "exact" may climb another than the victim.
        queries: (B,) forward passes that the attack spent on each clip; a gradient counts as one.
    """

    adversarial: Tensor
    loss: Tensor
    history: Tensor
    survived: Tensor
    queries: Tensor


NORMS = {"linf": "L∞", "l2": "L2"}


class Cost(NamedTuple):
    """What an attack spends on one clip: backward with forward passes, and forward passes alone."""

    gradients: float
    forwards: float


class Attack(ABC):
    """An attack is a frozen dataclass: it stores its settings, and its `repr` is its label in a table.

    Attributes:
        norm: "linf", "l2", or "free" for an attack that no norm bounds.
        eps: budget in that norm, relative to full scale; L2 is over the whole clip; infinite for "free".
    """

    norm: str
    eps: float

    @property
    def budget(self) -> str:
        """The bound in words."""
        if self.norm == "free":
            return "no bound"
        return f"{NORMS[self.norm]} ≤ {self.eps:g}"

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """What the attack spends at most on one clip: an estimate before it starts."""

    @abstractmethod
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
        """Attack a batch.

        Args:
            model: waveforms (B, T) to logits (B, C), in eval mode. It gets `noise` if its `forward` takes it;
                otherwise the defended models inside it replay the noise.
            waveform: (B, T) in [-1, 1], float32 or float64.
            labels: (B,) true classes, or wanted ones where the attack is targeted.
            noise: the only source of the attack's randomness. What happens to a clip depends on the seed and
                on the clip's name in `noise.for_items(...)`, not on the batch it is in.
            lengths: (B,) samples of each clip; nothing is changed beyond.
            progress: called after each step.

        Raises InputError for shapes, samples or labels that do not fit.
        """

    def _ball(self, waveform: Tensor, labels: Tensor, lengths: Tensor | None) -> Ball:
        """The admissible set around the clips, after checking them."""
        check_clips(waveform, labels)
        return ball(self.norm, self.eps, waveform, lengths)


def check_settings(attack: Attack, *counts: str, norms: Collection[str] = tuple(NORMS)) -> None:
    """InputError for a norm that is not among `norms`, bits but 16 or None, or a count, by name, below 1.

    Counts that are None pass.
    """
    if attack.norm not in norms:
        raise InputError(f"norm must be {' or '.join(map(repr, norms))}, got {attack.norm!r}")
    bits = getattr(attack, "bits", None)
    if bits not in (16, None):
        raise InputError(f"bits must be 16 or None, got {bits}")
    for name in counts:
        count = getattr(attack, name)
        if count is not None and count < 1:
            raise InputError(f"{name} must be at least 1, got {count}")


def check_clips(waveform: Tensor, labels: Tensor) -> None:
    """InputError unless these are clips (B, T) of finite samples in [-1, 1] with a label (B,) each."""
    if waveform.ndim != 2 or waveform.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"an attack needs float32 or float64 waveforms (clips, time), got {waveform.dtype} "
            f"{tuple(waveform.shape)}"
        )
    if labels.shape != waveform.shape[:1]:
        raise InputError(
            f"an attack needs one label a clip, got {tuple(labels.shape)} for {len(waveform)} clips"
        )
    if not bool(torch.isfinite(waveform).all()) or bool((waveform.abs() > 1).any()):
        raise InputError("an attack needs finite samples in [-1, 1]")


def predict(
    model: nn.Module,
    waveform: Tensor,
    *,
    noise: SeededNoise,
    passes: int = 1,
    lengths: Tensor | None = None,
    max_rows: int = 64,
) -> Tensor:
    """Class probabilities over fresh passes through a model, randomised or not.

    Args:
        noise: pass k uses `noise.fresh(k)`; a fixed model gives the same in every pass.
        max_rows: clips times passes that go through the model at once.

    Shape: (B, T) -> (B, passes, C). Raises InputError if a logit is not finite.
    """
    each = max(1, max_rows // max(1, len(waveform)))
    parts = []
    with torch.no_grad():
        for first in range(0, passes, each):
            draws = range(first, min(first + each, passes))
            source = Stacked(tuple(noise.fresh(k) for k in draws))
            rows = waveform.repeat(len(draws), 1)
            logits = call(model, rows, source, None if lengths is None else lengths.repeat(len(draws)))
            parts.append(logits.unflatten(0, (len(draws), len(waveform))))
    logits = torch.cat(parts)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model returned logits that are not finite")
    return logits.float().softmax(-1).transpose(0, 1)


def score(
    model: nn.Module,
    waveform: Tensor,
    labels: Tensor,
    *,
    noise: SeededNoise,
    passes: int = 1,
    lengths: Tensor | None = None,
    max_rows: int = 64,
) -> Tensor:
    """Which of `passes` fresh passes recognise each clip. Shape: (B, T) -> (B, passes), bool."""
    heard = predict(model, waveform, noise=noise, passes=passes, lengths=lengths, max_rows=max_rows)
    return heard.argmax(-1) == labels[:, None]
