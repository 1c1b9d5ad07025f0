"""An equaliser that attacks: the counterpart for audio of DiffBreak's low-frequency attack.

Diffusion purification removes noise and keeps what is smooth. DiffBreak (Kassis et al. 2025) therefore
attacks images through smooth filters rather than by noise; here each clip goes through a smoothly varying
equaliser, which a purifier has no reason to undo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, unit
from audiopure.attacks.base import Attack, AttackResult, Cost, check_settings
from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, Slope
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.frontend import hz_to_mel
from audiopure.noise import SeededNoise
from audiopure.psychoacoustics import Masking, excess, masking_threshold

FRAME_SECONDS = 0.032
TAPS_SECONDS = 0.016  # of the filter that keeps the additive part below its cut-off


class Equaliser:
    """A smooth gain over time and frequency, applied to short-time spectra.

    Gains in dB are given at the nodes of a grid, `bands` over the mel scale from 0 Hz to half the sample
    rate by one every `segment` seconds from the start of a clip, and interpolated by raised cosines in
    between, so that no gain lies beyond those of its neighbouring nodes. Gains of 0 dB leave a clip as it
    is, bit for bit, and a clip's samples do not depend on what is stored behind it.
    """

    def __init__(self, like: Tensor, sample_rate: int, bands: int, segment: float):
        self.hop = round(FRAME_SECONDS / 4 * sample_rate)
        size, time = 4 * self.hop, like.shape[1]
        # frames that start a whole frame early and end as late: every sample lies in four of them
        self.frames = 5 + -(-time // self.hop)
        centres = (np.arange(self.frames) - 2) * self.hop / sample_rate
        nodes = 1 + math.ceil(max(centres[-1], segment) / segment)
        mel = hz_to_mel(np.linspace(0, sample_rate / 2, size // 2 + 1))
        self.times = like.new_tensor(_raised_cosines(centres.clip(0) / segment, nodes))
        self.bands = like.new_tensor(_raised_cosines(mel / mel[-1] * (bands - 1), bands))
        self.window = torch.hann_window(size, device=like.device, dtype=like.dtype)
        self.shape = (len(like), nodes, bands)

    def gains(self, nodes: Tensor) -> Tensor:
        """Gain in dB of every frame and bin. Shape: (B, nodes, bands) -> (B, frames, bins)."""
        return self.times @ nodes @ self.bands.T

    def __call__(self, waveform: Tensor, nodes: Tensor) -> Tensor:
        """Shape: (B, T), (B, nodes, bands) -> (B, T)."""
        size, hop = 4 * self.hop, self.hop
        padded = F.pad(waveform, (size, self.frames * hop - waveform.shape[1]))
        frames = padded.unfold(1, size, hop)[:, : self.frames] * self.window
        # the change is synthesised, not the result: where the gain is 1 nothing passes through a transform
        factor = 10 ** (self.gains(nodes) / 20) - 1
        change = torch.fft.irfft(torch.fft.rfft(frames) * factor, n=size) * self.window
        length = (self.frames + 3) * hop
        added = F.fold(change.transpose(1, 2), (1, length), (1, size), stride=(1, hop))[:, 0, 0]
        # squared Hann windows a quarter apart add up to 3/2
        return waveform + added[:, size : size + waveform.shape[1]] / 1.5


@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """Adam on the gains of an `Equaliser`, through the defence, in expectation over its randomness.

    The budget is `gain_db`: gains are gain_db * tanh(parameter), so that no step can leave it. An additive
    part below `cutoff` can join in, and the masking threshold can hold both back. Candidates and their choice
    are those of `Pgd`: the iterate of largest mean loss and the last one, compared in fresh draws.

    The budget that breaks a recogniser without a defence is measured in docs/attacks.md. Coarser
    grids need more. Filters of a few taps or phases on the same grid, on top of the gains, broke no further
    clip.

    Args:
        gain_db: largest gain and attenuation, in dB.
        bands: nodes of the gain over the mel scale, at least 2.
        segment: seconds between nodes.
        hum: bound in L-inf of the additive part, whose spectrum lies below `cutoff` Hz; 0 leaves it out.
        cutoff: in Hz, where the additive part is down by 6 dB.
        hinge: weight of the mean power above the clip's masking threshold (`psychoacoustics.excess`, whose
            scale reaches 10^9.6), which the attack subtracts from its loss; 0 leaves it out.
        steps, rate: of Adam; the parameters are the arguments of tanh.
        eot: draws whose gradients are averaged at each step.
        loss, route, targeted, bits: see `Pgd`.
        selection: fresh draws that judge the candidates; by default as many as `eot`.
        sample_rate: of the clips, in Hz.
    """

    norm: Literal["free"] = field(default="free", init=False, repr=False)
    eps: float = field(default=math.inf, init=False, repr=False)
    gain_db: float = 6.0
    bands: int = 24
    segment: float = 0.05
    hum: float = 0.0
    cutoff: float = 1000.0
    hinge: float = 0.0
    steps: int = 60
    rate: float = 0.2
    eot: int = 1
    loss: str | Criterion = "margin"
    route: str = "exact"
    targeted: bool = False
    selection: int | None = None
    bits: Literal[16] | None = 16
    sample_rate: int = 16_000
    max_rows: int = field(default=64, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, "steps", "eot", "selection", "max_rows", norms=("free",))
        for name in ("gain_db", "segment", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.bands < 2:
            raise InputError(f"an equaliser needs at least 2 bands, got {self.bands}")
        if not 0 <= self.hum <= 1 or not 0 <= self.hinge < math.inf:
            raise InputError(f"hum must lie in [0, 1] and hinge be 0 or more, got {self.hum}, {self.hinge}")
        if not 0 < self.cutoff < self.sample_rate / 2:
            raise InputError(f"cutoff must lie between 0 and half the sample rate, got {self.cutoff}")

    @property
    def budget(self) -> str:
        added = "" if not self.hum else f", below {self.cutoff:g} Hz L∞ ≤ {self.hum:g}"
        return f"gain ≤ {self.gain_db:g} dB{added}"

    @property
    def cost(self) -> Cost:
        return Cost(self.steps * self.eot, 2 * (self.selection or self.eot))

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
        path = replace(objective, model=reroute(model, self.route))
        masking = masking_threshold(waveform, self.sample_rate, lengths) if self.hinge else None
        sound = _Sound(self, ball, masking)
        best, best_value = waveform, torch.full_like(waveform[:, 0], -torch.inf)
        seen: list[Slope] = []
        for step in range(self.steps):
            x = sound.render().detach()
            slope = path.gradient(x, noise.fresh(step), self.eot)
            value = slope.loss - sound.step(slope.gradient)
            best = torch.where((value > best_value)[:, None], x, best)
            best_value = value.maximum(best_value)
            seen.append(slope)
            if progress is not None:
                progress()
        candidates = [best, sound.render().detach()]
        if self.bits == 16:
            candidates = [ball.round16(x) for x in candidates]
        passes = self.selection or self.eot
        judge, rows = noise.fresh(self.steps), torch.arange(len(waveform), device=waveform.device)
        judged = torch.stack([objective.value(x, judge, passes) for x in candidates])
        choice = (judged - torch.stack([sound.audible(x) for x in candidates])).argmax(0)
        return AttackResult(
            torch.stack(candidates)[choice, rows],
            judged[choice, rows],
            torch.stack([slope.loss for slope in seen])[None],
            torch.stack([slope.survived for slope in seen])[None],
            labels.new_full(labels.shape, self.steps * self.eot + len(candidates) * passes),
        )


class _Parameters(NamedTuple):
    gains: Tensor
    hum: Tensor


class _Sound:
    """The attacked clips as a function of parameters, and Adam on these."""

    def __init__(self, attack: LowFrequency, ball: Ball, masking: Masking | None):
        self.attack, self.ball, self.masking = attack, ball, masking
        clean = ball.clean
        self.clip = clean if ball.mask is None else clean * ball.mask
        self.equaliser = Equaliser(clean, attack.sample_rate, attack.bands, attack.segment)
        self.parameters = _Parameters(clean.new_zeros(self.equaliser.shape), torch.zeros_like(clean))
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.adam = torch.optim.Adam(self.parameters, attack.rate, eps=1e-12)
        self.filter = _low_pass(attack.cutoff, attack.sample_rate, clean)
        # nothing within half a filter of a clip's ends, where it would be cut and lose its band
        side = len(self.filter) // 2
        inside = F.pad(
            torch.ones_like(clean) if ball.mask is None else ball.mask.to(clean.dtype), (side, side)
        )
        self.room = inside[:, 2 * side :] * inside[:, : -2 * side]

    def render(self) -> Tensor:
        """Shape: (B, T), differentiable in the parameters."""
        attack = self.attack
        with torch.enable_grad():
            x = self.equaliser(self.clip, attack.gain_db * self.parameters.gains.tanh())
            if attack.hum:
                x = x + self._hum()
            return self.ball.project(x)

    def step(self, gradient: Tensor) -> Tensor:
        """Climb along the loss's gradient at `render()`; returns the hinge there. Shape: (B, T) -> (B,)."""
        with torch.enable_grad():
            x = self.render()
            audible = self.audible(x)
            climbed = (gradient * x).sum() - audible.sum()
            slopes = torch.autograd.grad(climbed, self.parameters, allow_unused=True)
        for parameter, slope in zip(self.parameters, slopes, strict=True):
            # at length 1 a saturated loss moves a clip as well as a steep one
            parameter.grad = None if slope is None else -unit(slope.flatten(1)).view_as(slope)
        self.adam.step()
        return audible.detach()

    def audible(self, x: Tensor) -> Tensor:
        """The hinge on the masking threshold. Shape: (B, T) -> (B,)."""
        if self.masking is None:
            return torch.zeros_like(x[:, 0])
        return self.attack.hinge * excess(x - self.ball.clean, self.masking)

    def _hum(self) -> Tensor:
        """The additive part: within its bound, as the filter's taps have absolute values that add up to 1."""
        source, side = self.parameters.hum.tanh() * self.room, len(self.filter) // 2
        size = source.shape[1] + 2 * side
        spectrum = torch.fft.rfft(source, size) * torch.fft.rfft(self.filter, size)
        return self.attack.hum * torch.fft.irfft(spectrum, size)[:, side : side + source.shape[1]]


def _raised_cosines(position: np.ndarray, count: int) -> np.ndarray:
    """Weights of nodes 0..count-1 at each position; they add up to 1. Shape: (N,) -> (N, count)."""
    distance = np.abs(position[:, None] - np.arange(count)).clip(max=1)
    return 0.5 + 0.5 * np.cos(np.pi * distance)


def _low_pass(cutoff: float, sample_rate: int, like: Tensor) -> Tensor:
    """Windowed sinc whose taps' absolute values add up to 1. Shape: (taps,)."""
    side = round(TAPS_SECONDS / 2 * sample_rate)
    time = np.arange(-side, side + 1)
    taps = np.sinc(2 * cutoff / sample_rate * time) * np.blackman(2 * side + 3)[1:-1]
    return like.new_tensor(taps / np.abs(taps).sum())
