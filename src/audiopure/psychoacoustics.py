"""What a clip masks: the masking threshold of Qin et al. 2019 (appendix; after Lin & Abdulla 2015).

All levels are relative to the clip: its strongest time-frequency bin counts as 96 dB, whatever the volume it
is stored at. A perturbation whose power spectral density stays below the threshold in every bin is, by this
model, inaudible beside the clip. In the model only tones mask, and nothing masks what comes before or after,
so that it errs towards calling a perturbation audible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from audiopure.errors import InputError

WINDOW_SECONDS = 0.128  # 2048 samples at 16 kHz; hop is a quarter of it
PEAK_DB = 96.0
PRUNING_BARK = 0.5
DENSITY = 8 / 3  # makes up for the power that a Hann window takes
# psd_max of a tone whose amplitude is one step of a 16-bit sample: what is quieter than that is silence
SILENCE = 2.0**-30 / 6


def bark(hz: Tensor) -> Tensor:
    """Critical-band rate in Bark of frequencies in Hz (Zwicker). Any shape."""
    return 13 * torch.atan(0.00076 * hz) + 3.5 * torch.atan((hz / 7500) ** 2)


def hearing_threshold(hz: Tensor) -> Tensor:
    """Absolute threshold of hearing in dB of frequencies in Hz (Terhardt), 12 dB lower as in Qin et al.

    Constant below 20 Hz and above 20 kHz, where the formula is not meant to be used. Any shape.
    """
    khz = hz.clamp(20, 20_000) / 1000
    return 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 0.001 * khz**4 - 12


@dataclass(frozen=True)
class Masking:
    """What the clips of a batch mask.

    Attributes:
        threshold: (B, frames, bins), as power: 10^(dB / 10) on the scale on which a clip's maximum is 96 dB.
        psd_max: (B,) the power spectral density that this maximum stands for, relative to full scale.
        inside: (B, frames) which frames are centred within the clip: 1 + length // hop.
        lengths: (B,) samples of each clip.
        sample_rate: in Hz.
    """

    threshold: Tensor
    psd_max: Tensor
    inside: Tensor
    lengths: Tensor
    sample_rate: int

    def rows(self, index: Tensor) -> Masking:
        """The same of some clips. Shape: index (k,)."""
        threshold, psd_max, inside = self.threshold[index], self.psd_max[index], self.inside[index]
        return Masking(threshold, psd_max, inside, self.lengths[index], self.sample_rate)


def masking_threshold(waveform: Tensor, sample_rate: int, lengths: Tensor | None = None) -> Masking:
    """The masking threshold of each clip, without gradients.

    Maskers are the local maxima of a frame's spectrum, their power summed with that of the two bins beside
    them, which exceed the threshold of hearing and any other within half a Bark. A masker of level P dB at z
    Bark masks P - 6.025 - .275 z dB at its own place, 27 dB a Bark less below it and 27 - .37 max(P - 40, 0)
    dB a Bark less above it. The powers of all that add up, with that of the threshold of hearing.

    The paper's frames, 2048 samples every 512 at 16 kHz, are centred here, on a clip continued by zeros, so
    that short clips have frames and ends are covered; they last as long at every sample rate. The authors'
    code prunes maskers in pairs from low to high frequencies, so that one which is already gone may still
    remove others; here, as in the text, each masker is compared with all of its surroundings.

    Args:
        waveform: (B, T) in [-1, 1].
        sample_rate: in Hz, at least 4 kHz.
        lengths: (B,) samples of each clip; what lies beyond has no influence.

    Raises InputError for another shape, a lower rate, or samples that are not finite.
    """
    if waveform.ndim != 2 or not waveform.is_floating_point() or waveform.shape[1] == 0:
        raise InputError(f"a masking threshold needs waveforms (clips, time), got {tuple(waveform.shape)}")
    if sample_rate < 4000:
        raise InputError(f"a masking threshold needs a sample rate of at least 4000 Hz, got {sample_rate}")
    if not bool(torch.isfinite(waveform).all()):
        raise InputError("a masking threshold needs finite samples")
    waveform = waveform.detach()
    if lengths is None:
        lengths = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
    lengths = lengths.to(waveform.device)
    psd = _psd(waveform, sample_rate, lengths)
    inside = torch.arange(psd.shape[1], device=psd.device) <= (lengths // hop(sample_rate))[:, None]
    peak = (psd * inside[..., None]).amax((1, 2)).clamp(min=SILENCE)
    relative = _normalised(psd, peak)
    threshold = _threshold(relative.flatten(0, 1), sample_rate).unflatten(0, psd.shape[:2])
    return Masking(threshold, peak, inside, lengths, sample_rate)


def relative_psd(perturbation: Tensor, masking: Masking) -> Tensor:
    """Power spectral density of a perturbation on the threshold's scale; differentiable.

    Shape: (B, T) -> (B, frames, bins). Raises InputError if its length is not that of the clips.
    """
    psd = _psd(perturbation, masking.sample_rate, masking.lengths)
    if psd.shape != masking.threshold.shape:
        raise InputError(
            f"a perturbation {tuple(perturbation.shape)} does not fit the threshold of other clips"
        )
    return _normalised(psd, masking.psd_max)


def bin_power(masking: Masking) -> Tensor:
    """The threshold as |STFT / window length|^2 of centred Hann frames, relative to full scale.

    Shape: (B, frames, bins).
    """
    scale = masking.psd_max / (DENSITY * 10 ** (PEAK_DB / 10))
    return masking.threshold * scale[:, None, None]


def excess(perturbation: Tensor, masking: Masking) -> Tensor:
    """Mean over a clip's bins of the power above the threshold: l_theta of Qin et al.; differentiable.

    Shape: (B, T) -> (B,), on the scale on which the clip's maximum is 10^9.6.
    """
    above = (relative_psd(perturbation, masking) - masking.threshold).relu()
    return _mean(above, masking)


def distance_above_mask(
    clean: Tensor, other: Tensor, sample_rate: int, lengths: Tensor | None = None
) -> Tensor:
    """How far a change of a clip rises above what the clip masks, in dB, averaged over all of its bins.

    In each bin of time and frequency it is the level of `other - clean` above the masking threshold of
    `clean`, or 0 below it. 0 dB says that the model of hearing finds nothing to hear.

    Shape: (B, T), (B, T) -> (B,). Raises InputError for shapes that differ, else as `masking_threshold`.
    """
    _same_shape(clean, other)
    return above_mask(other - clean, masking_threshold(clean, sample_rate, lengths))


def above_mask(perturbation: Tensor, masking: Masking) -> Tensor:
    """`distance_above_mask` for a perturbation of clips whose masking is known. Shape: (B, T) -> (B,)."""
    psd = relative_psd(perturbation, masking)
    # a bin below the threshold counts as on it; the ratio is then at least 1 and its logarithm finite
    return _mean(10 * torch.log10((psd / masking.threshold).clamp(min=1)), masking)


def share_above_mask(clean: Tensor, other: Tensor, sample_rate: int, lengths: Tensor | None = None) -> Tensor:
    """Share of a clip's time-frequency bins in which a change rises above what the clip masks.

    Shape: (B, T), (B, T) -> (B,) in [0, 1]. Raises InputError as `distance_above_mask`.
    """
    _same_shape(clean, other)
    masking = masking_threshold(clean, sample_rate, lengths)
    psd = relative_psd(other - clean, masking)
    return _mean((psd > masking.threshold).to(psd.dtype), masking)


def hop(sample_rate: int) -> int:
    """Samples between frames: 32 ms; a frame is four hops long."""
    return round(WINDOW_SECONDS / 4 * sample_rate)


def _same_shape(clean: Tensor, other: Tensor) -> None:
    if clean.shape != other.shape:
        raise InputError(f"clips of different shapes: {tuple(clean.shape)} and {tuple(other.shape)}")


def _mean(values: Tensor, masking: Masking) -> Tensor:
    """Mean over the clip's own frames. Shape: (B, frames, bins) -> (B,)."""
    values = values.mean(-1) * masking.inside
    return values.sum(-1) / masking.inside.sum(-1)


def _psd(waveform: Tensor, sample_rate: int, lengths: Tensor) -> Tensor:
    """8/3 |STFT / window length|^2 of centred Hann frames. Shape: (B, T) -> (B, frames, bins)."""
    size = 4 * hop(sample_rate)
    within = torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]
    window = torch.hann_window(size, device=waveform.device, dtype=waveform.dtype)
    spectrum = torch.stft(
        torch.where(within, waveform, 0.0),
        size,
        size // 4,
        window=window / size,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return DENSITY * (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)


def _normalised(psd: Tensor, peak: Tensor) -> Tensor:
    return psd * (10 ** (PEAK_DB / 10) / peak)[:, None, None]


def _threshold(psd: Tensor, sample_rate: int) -> Tensor:
    """Threshold of each frame. Shape: (frames, bins) -> (frames, bins)."""
    hz = torch.linspace(0, sample_rate / 2, psd.shape[1], device=psd.device, dtype=psd.dtype)
    z, quiet = bark(hz), 10 ** (hearing_threshold(hz) / 10)
    level = 10 * torch.log10(_maskers(psd, sample_rate, quiet))
    count = int((level > -torch.inf).sum(1).max())
    # the maskers of each frame come first, silent ones of -inf dB fill up
    level, place = level.topk(count, dim=1)
    total = quiet.expand_as(psd).clone()
    for p, j in zip(level.unbind(1), place.unbind(1), strict=True):
        dz = z - z[j][:, None]
        slope = torch.where(dz > 0, (0.37 * (p - 40).relu() - 27)[:, None], 27.0)
        total += 10 ** ((p - 6.025 - 0.275 * z[j])[:, None].add(slope * dz) / 10)
    return total


def _maskers(psd: Tensor, sample_rate: int, quiet: Tensor) -> Tensor:
    """Power of the masker in each bin, 0 where there is none. Shape: (frames, bins) -> (frames, bins)."""
    left, middle, right = psd[:, :-2], psd[:, 1:-1], psd[:, 2:]
    power = left + middle + right
    peaks = (middle > left) & (middle > right) & (power > quiet[1:-1])
    power = F.pad(torch.where(peaks, power, 0.0), (1, 1))
    low, high = _surroundings(sample_rate, psd.shape[1])
    strongest = _range_max(power, low.to(psd.device), high.to(psd.device))
    return torch.where(power >= strongest, power, 0.0)


@cache
def _surroundings(sample_rate: int, bins: int) -> tuple[Tensor, Tensor]:
    """First and last bin closer than half a Bark to each bin. Shape: (bins,) twice."""
    z = bark(torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64))
    low = torch.searchsorted(z, z - PRUNING_BARK, right=True)
    return low, torch.searchsorted(z, z + PRUNING_BARK) - 1


def _range_max(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Maximum of x[..., low[k]..high[k]] for every k. Shape: (N, K), (K,), (K,) -> (N, K)."""
    result, span = x.clone(), 1
    width = high - low + 1
    while span <= int(width.max()):
        # x now holds maxima over `span` bins: two of them, overlapping, cover a range of up to twice that
        fits = (width >= span) & (width < 2 * span)
        result[:, fits] = torch.maximum(x[:, low[fits]], x[:, (high - span + 1)[fits]])
        x = torch.maximum(x, F.pad(x[:, span:], (0, span)))
        span *= 2
    return result
