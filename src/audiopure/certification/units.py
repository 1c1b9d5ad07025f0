"""What a certified L2 radius of a waveform means: in decibels, per octave, and against what can be heard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from audiopure import psychoacoustics
from audiopure.errors import InputError

OCTAVES = (125, 250, 500, 1000, 2000, 4000, 8000)  # Hz, centres; a band reaches half an octave to each side


@dataclass(frozen=True)
class Meaning:
    """Of one radius for one clip. Decibels are -inf or inf where a side is 0.

    Attributes:
        snr: dB from the least change that is not certified up to the clip: 20 log10(|x| / radius).
        rms: dB of that change, spread evenly over the clip, relative to full scale.
        octaves: centre in Hz -> dB from such a change, all in this octave, up to what the clip has there.
            Negative: louder than the clip in the band.
        inaudible: dB by which the radius exceeds the largest change that the clip masks everywhere. Positive:
            whatever stays below the masking threshold is certified. None for a clip without a threshold.
        noticeable: dB by which the largest certified change exceeds the smallest one that could rise above
            the threshold at all. Negative: everything that is certified is inaudible. None as above.
        heard: share of the clip's time-frequency bins in which white noise of this size would rise above the
            threshold. None as above.
    """

    snr: float
    rms: float
    octaves: Mapping[int, float]
    inaudible: float | None
    noticeable: float | None
    heard: float | None


class Audibility(NamedTuple):
    """L2 norms that bound what a clip masks, and its threshold.

    Attributes:
        largest: no change of a larger norm stays below the threshold in every bin.
        smallest: no change of a smaller norm reaches it in any bin.
        power: (frames, bins), the threshold as |STFT / window length|^2.
        gain: squared norm of the window over its squared length: of white noise's power, what a bin gets.
    """

    largest: float
    smallest: float
    power: Tensor
    gain: float


def meaning(
    waveform: Tensor,
    radius: float,
    sample_rate: int,
    *,
    largest: float | None = None,
    within: Callable[[float, float], float] | None = None,
) -> Meaning:
    """What an L2 radius amounts to for a clip.

    Args:
        largest: L2 norm of the largest change that is certified, by default the radius.
        within: the radius for changes within a band, from and to in Hz; by default it is the same.

    Shape: (T,). Raises InputError for an empty clip or samples that are not finite.
    """
    if waveform.ndim != 1 or not len(waveform) or not bool(torch.isfinite(waveform).all()):
        raise InputError("a radius is explained for one clip of finite samples")
    clip = waveform.double()
    mask = audibility(clip, sample_rate)
    white = radius**2 / len(clip)
    return Meaning(
        snr=decibel(float(clip.norm()), radius),
        rms=decibel(math.sqrt(white), 1.0),
        octaves={
            hz: decibel(energy, radius if within is None else within(*octave(hz)))
            for hz, energy in octave_levels(clip, sample_rate).items()
        },
        inaudible=None if mask is None else decibel(radius, mask.largest),
        noticeable=None if mask is None else decibel(largest or radius, mask.smallest),
        heard=None if mask is None else float((mask.power < white * mask.gain).double().mean()),
    )


def decibel(a: float, b: float) -> float:
    """20 log10(a / b)."""
    if a <= 0 or b <= 0:
        return 0.0 if a == b else math.copysign(math.inf, a - b)
    return 20 * math.log10(a / b)


def octave(centre: float) -> tuple[float, float]:
    """Where it begins and ends, in Hz."""
    return centre / math.sqrt(2), centre * math.sqrt(2)


def octave_levels(waveform: Tensor, sample_rate: int) -> dict[int, float]:
    """L2 norm of what a clip has in each octave that begins below half the sample rate. Shape: (T,)."""
    spectrum = torch.fft.rfft(waveform.double())
    hz = torch.fft.rfftfreq(len(waveform), 1 / sample_rate)
    energy = 2 * spectrum.abs().square() / len(waveform)  # of both conjugates, by Parseval
    if len(waveform) % 2 == 0:
        energy[-1] /= 2  # half the sample rate is its own conjugate
    found = {}
    for centre in OCTAVES:
        low, high = octave(centre)
        if low < sample_rate / 2:
            found[centre] = math.sqrt(float(energy[(hz >= low) & (hz < high)].sum()))
    return found


def audibility(waveform: Tensor, sample_rate: int) -> Audibility | None:
    """What a clip's masking threshold says of L2 norms. Shape: (T,).

    The energies of overlapping frames add up to that of a change, times the squared window weights that meet
    in each sample, at least W. If it stays below the threshold in every bin, its energy is at most the
    threshold's sum over W; neighbouring frames can hardly all be filled at once, so that this errs upwards.
    To reach the threshold in a bin it needs what a window full of that bin's tone has.

    None for a rate that has no threshold, and for silence.
    """
    if sample_rate < 4000 or not float(waveform.abs().max()):
        return None
    masking = psychoacoustics.masking_threshold(waveform[None].float(), sample_rate)
    power = psychoacoustics.bin_power(masking)[0].double()
    hop = psychoacoustics.hop(sample_rate)
    window = torch.hann_window(4 * hop, dtype=torch.float64)
    # of both conjugates: all bins but the first and the last stand for two
    weights = torch.full((power.shape[-1],), 2.0, dtype=torch.float64)
    weights[0] = weights[-1] = 1.0
    energy = 4 * hop * float((power * weights).sum())
    gain = float(window.square().sum()) / (4 * hop) ** 2
    return Audibility(
        largest=math.sqrt(energy / _coverage(len(waveform), len(power), hop, window)),
        smallest=math.sqrt(float(power.min()) / gain),  # |X| <= |window| |change|, by Cauchy-Schwarz
        power=power,
        gain=gain,
    )


def _coverage(length: int, frames: int, hop: int, window: Tensor) -> float:
    """The least sum of squared window weights over the samples of a clip."""
    total = torch.zeros(length + len(window) + hop, dtype=torch.float64)
    for frame in range(frames):
        total[frame * hop : frame * hop + len(window)] += window.square()
    middle = len(window) // 2  # the first frame is centred on the first sample
    return float(total[middle : middle + length].min())
