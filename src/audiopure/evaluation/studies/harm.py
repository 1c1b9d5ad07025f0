"""What purification does to sounds it is not for: music, noise, silence, clipped speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiopure.data import load_dataset
from audiopure.evaluation.studies.denoising import NoisySet, sample_clips
from audiopure.evaluation.studies.wiener import DecisionDirectedWiener
from audiopure.metrics import si_sdr
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

RATE = 16_000
# pitches in semitones above A1 = 55 Hz: a minor and a major progression, and a pentatonic melody scale
CHORDS = ((0, 7, 12, 15), (8, 12, 15, 20), (3, 10, 15, 19), (10, 14, 17, 22))
SCALE = (24, 27, 29, 31, 34, 36, 39)


def synthesise_music(count: int, *, seconds: float = 4.0, seed: int = 0) -> list[Tensor]:
    """Plucked chords, a bowed melody with vibrato, and percussion; other means than the training's chords.

    Strings are Karplus and Strong's (1983), the melody is frequency modulated (Chowning 1973), drums
    are noise. Shape of each: (T,), peak 0.1 to 0.8.
    """
    return [_piece(np.random.default_rng([seed, number]), round(seconds * RATE)) for number in range(count)]


def _piece(rng: np.random.Generator, length: int) -> Tensor:
    beat = round(RATE * rng.uniform(0.35, 0.6))
    key = int(rng.integers(-3, 4))
    out = np.zeros(length)
    for number, start in enumerate(range(0, length, beat)):
        room = min(length - start, 2 * beat)
        for semitone in CHORDS[(number // 2) % len(CHORDS)]:
            out[start : start + room] += 0.25 * _pluck(rng, _hertz(semitone + key), room)
        note = min(length - start, beat)
        out[start : start + note] += 0.3 * _bowed(rng, _hertz(SCALE[rng.integers(len(SCALE))] + key), note)
        hit = min(length - start, RATE // 10)
        out[start : start + hit] += 0.2 * rng.standard_normal(hit) * np.exp(-np.arange(hit) / (RATE * 0.02))
    peak = rng.uniform(0.1, 0.8)
    return torch.from_numpy(peak * out / np.abs(out).max()).float()


def _hertz(semitone: int) -> float:
    return 55.0 * 2 ** (semitone / 12)


def _pluck(rng: np.random.Generator, hertz: float, length: int) -> np.ndarray:
    """A string: a loop of noise that is averaged with its neighbour at every turn."""
    loop = rng.uniform(-1, 1, round(RATE / hertz))
    turns = []
    for _ in range(-(-length // len(loop))):
        turns.append(loop)
        loop = 0.498 * (loop + np.roll(loop, 1))
    return np.concatenate(turns)[:length]


def _bowed(rng: np.random.Generator, hertz: float, length: int) -> np.ndarray:
    """Frequency modulation at the pitch itself, with vibrato and a slow attack."""
    time = np.arange(length) / RATE
    phase = 2 * np.pi * hertz * (time + 0.0006 * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * time) / 5.5)
    envelope = np.minimum(1, time / 0.05) * np.minimum(1, (length / RATE - time) / 0.05)
    return envelope * np.sin(phase + 1.8 * envelope * np.sin(phase))


def clip_hard(waveform: Tensor, share: float = 0.25) -> Tensor:
    """Overdriven speech: cut at `share` of its peak, then brought to a peak of 0.9. Shape: (T,) -> (T,)."""
    limit = share * waveform.abs().max().clamp(min=1e-6)
    return 0.9 * (waveform / limit).clamp(-1, 1)


def other_sounds(root: Path, *, count: int = 24) -> dict[str, list[Tensor]]:
    """The sounds of the table by name. Shape of each: (T,)."""
    return {
        "music": synthesise_music(count),
        "background": load_dataset("background", root, "test").load_all(),
        "silence": [torch.zeros(RATE)],
        "clipped speech": [clip_hard(clip) for clip in sample_clips("sc09", root, count)],
    }


@torch.inference_mode()
def harm(clips: Sequence[Tensor], purifier: Purifier, wiener: DecisionDirectedWiener) -> dict[str, Any]:
    """SI-SDR and change of level, in dB, that each treatment of the same clips with the same noise gives.

    Treatments: `noise only` (forward diffusion at the purifier's n_star and level), `wiener` (of that noisy
    signal, told its sigma), `purified`. A silent clip has no SI-SDR and no level to change: for those, and
    only those, `silence_dbfs` is the level of the result relative to full scale.
    """
    control = purifier.replace(reverse=False)
    values: dict[str, dict[str, list[Tensor]]] = {}
    for clean, _, lengths in NoisySet.make(clips, 0.0).batches:
        noise = SeededNoise(0)
        noisy = control(clean, lengths=lengths, noise=noise)
        gain = purifier.level.gain(purifier.level.energy(clean))  # type: ignore[arg-type]
        sigma = purifier.sigma / (torch.ones(len(clean), 1) if gain is None else gain)[:, 0]
        results = {
            "noise only": noisy,
            "wiener": wiener(noisy, sigma, lengths),
            "purified": purifier(clean, lengths=lengths, noise=noise),
        }
        for name, result in results.items():
            for key, value in _measure(result, clean, lengths).items():
                values.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: round(torch.cat(parts).mean().item(), 2) for key, parts in keys.items()}
        for name, keys in values.items()
    } | {"clips": len(clips)}


def _measure(result: Tensor, clean: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
    """Values of the clips for which they are defined."""
    before = (clean.square().sum(1) / lengths).sqrt()
    after = 20 * torch.log10((result.square().sum(1) / lengths).sqrt().clamp(min=1e-8))
    sounds = before > 0
    values = {
        "si_sdr": si_sdr(result[sounds], clean[sounds]),
        "level_change_db": after[sounds] - 20 * torch.log10(before[sounds]),
        "silence_dbfs": after[~sounds],
    }
    return {key: value for key, value in values.items() if len(value)}
