"""The Kenansville attack (Abdullah et al. 2021): leave out what listeners hardly need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.components import Components, Fourier, SingularSpectrum
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Value
from audiopure.errors import InputError
from audiopure.metrics import snr
from audiopure.noise import SeededNoise

METHODS: dict[str, Callable[[Tensor], Components]] = {"fft": Fourier, "ssa": SingularSpectrum}


@dataclass(frozen=True, kw_only=True)
class Kenansville(Attack):
    """Kenansville: remove the weakest components of a clip, as few as make the model fail.

    It has no budget in a norm (`norm` is "free"): a binary search over the strength of the attack finds the
    least distortion that most of `eot` fresh passes fail, which is to be stated as `metrics.snr` of the
    result against the clip. A clip that no strength breaks comes back as it is. With `snr` nothing is
    searched: every clip is distorted as much as leaves that SNR, whatever the model says, as in the
    robust_speech toolkit.

    The strength s of "fft" zeroes Fourier bins of the whole clip below s times the largest; that of "ssa"
    removes the share s of the components of singular spectrum analysis, but never the strongest.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md. Some
    clips keep their word down to the strongest component alone.

    Args:
        method: "fft" or "ssa".
        snr: dB to keep, or None to search.
        iterations: strengths that are tried, starting at 1/2.
        eot: fresh passes that decide at each strength whether the model fails.
        loss: a name in `criteria.CRITERIA`, or a `Criterion`; its verdict decides, its value is reported.
        targeted: the labels are those the attacker wants to be heard.
        selection: fresh draws of the reported loss; by default as many as `eot`.
        bits: 16 rounds every clip that is tried to 16-bit samples, None keeps floating point.
        max_rows: clips times passes that go through the model at once.
    """

    norm: Literal["free"] = "free"
    eps: float = math.inf
    method: Literal["fft", "ssa"] = "fft"
    snr: float | None = None
    iterations: int = 15
    eot: int = 1
    loss: str | Criterion = "margin"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "iterations", "eot", "selection", "max_rows", norms=("free",))
        if self.method not in METHODS:
            raise InputError(f"there is no method '{self.method}'; there are: {', '.join(METHODS)}")
        if self.snr is not None and not math.isfinite(self.snr):
            raise InputError(f"the SNR to keep must be finite, got {self.snr}")

    @property
    def cost(self) -> Cost:
        looks = self.iterations if self.snr is None else 1
        return Cost(0, looks * self.eot + (self.selection or self.eot))

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
        ends = [waveform.shape[1]] * len(waveform) if lengths is None else lengths.tolist()
        parts = [METHODS[self.method](clip[:end]) for clip, end in zip(waveform, ends, strict=True)]
        if self.snr is None:
            x, seen = self._search(objective, ball, parts, noise, progress)
        else:
            x = self._assembled(ball, [_keeping(part, self.snr) for part in parts])
            seen = [objective.measure(x, noise.fresh(0), self.eot)]
            if progress is not None:
                progress()
        passes = self.selection or self.eot
        return AttackResult(
            x,
            objective.value(x, noise.fresh(self.iterations), passes),
            torch.stack([value.loss for value in seen])[None],
            torch.stack([value.survived for value in seen])[None],
            labels.new_full(labels.shape, len(seen) * self.eot + passes),
        )

    def _search(
        self,
        objective: Objective,
        ball: Ball,
        parts: list[Components],
        noise: SeededNoise,
        progress: Callable[[], None] | None,
    ) -> tuple[Tensor, list[Value]]:
        """The least strength that fails each clip. Shape: (B, T), and what was seen on the way."""
        best, seen = ball.clean.clone(), []
        low, high = [0.0] * len(parts), [1.0] * len(parts)
        for number in range(self.iterations):
            middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
            clips = [part.without(part.weaker(s)) for part, s in zip(parts, middle, strict=True)]
            x = self._assembled(ball, clips)
            seen.append(objective.measure(x, noise.fresh(number), self.eot))
            failed = seen[-1].survived < 0.5
            best = torch.where(failed[:, None], x, best)
            for row, broken in enumerate(failed.tolist()):
                (high if broken else low)[row] = middle[row]
            if progress is not None:
                progress()
        return best, seen

    def _assembled(self, ball: Ball, clips: list[Tensor]) -> Tensor:
        """Clips of different lengths in one batch, as they are heard. Shape: (B, T)."""
        x = ball.clean.clone()
        for row, clip in zip(x, clips, strict=True):
            row[: len(clip)] = clip
        return ball.round16(x) if self.bits == 16 else ball.project(x)


def _keeping(part: Components, least: float) -> Tensor:
    """The clip less as many of its weakest components as leave an SNR of `least` dB. Shape: (T,)."""
    clip = part.without(0)
    low, high = 0, part.count
    while low < high:
        middle = (low + high + 1) // 2
        if bool(snr(part.without(middle), clip) >= least):
            low = middle
        else:
            high = middle - 1
    return part.without(low)
