"""A small generated dataset of ten "words", for tests and examples where no recordings are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiopure import audio
from audiopure.data.layouts import DIGITS, speech_commands_split
from audiopure.data.manifest import Clip, Dataset, write_manifest
from audiopure.errors import InputError

SAMPLE_RATE = 16000

# Two resonances (Hz) at the start and at the end of each word, spread over the plane of vowel formants so
# that a label is told by its spectrum and its glide, as in speech, and not by pitch or length.
FORMANTS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "zero": ((300, 2200), (500, 900)),
    "one": ((350, 700), (750, 1300)),
    "two": ((350, 1800), (300, 800)),
    "three": ((500, 1300), (280, 2500)),
    "four": ((600, 900), (450, 1400)),
    "five": ((800, 1200), (350, 2300)),
    "six": ((400, 2000), (450, 2900)),
    "seven": ((600, 1900), (500, 1100)),
    "eight": ((500, 2200), (700, 3200)),
    "nine": ((850, 1700), (400, 2100)),
}


def word(label: str, rng: np.random.Generator) -> Tensor:
    """One utterance of a "word": harmonics of a gliding pitch under the label's moving resonances, and noise.

    Shape: (T,), float32, |x| <= 0.9, 0.4 to 1 s at 16 kHz. Pitch, length, level and noise vary with `rng`.
    """
    if label not in FORMANTS:
        raise InputError(f"There is no generated word {label!r}; there are {', '.join(FORMANTS)}.")
    samples = int(rng.uniform(0.4, 1.0) * SAMPLE_RATE)
    time = np.linspace(0.0, 1.0, samples)
    pitch = rng.uniform(90, 240) * (1 + rng.uniform(-0.2, 0.2) * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    start, end = (np.array(pair) * rng.uniform(0.95, 1.05) for pair in FORMANTS[label])
    resonances = start[:, None] + (end - start)[:, None] * time
    voice = np.zeros(samples)
    for harmonic in range(1, 36):
        frequency = harmonic * pitch
        gain = np.exp(-(((frequency - resonances) / 180.0) ** 2)).sum(axis=0) + 0.02 / harmonic
        voice += gain * (frequency < SAMPLE_RATE / 2) * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    envelope = np.sin(np.pi * time) ** 0.5
    waveform = envelope * voice / np.abs(voice).max()
    waveform += 10 ** rng.uniform(-3.0, -1.7) * rng.standard_normal(samples)
    waveform *= rng.uniform(0.2, 0.9) / np.abs(waveform).max()
    return torch.from_numpy(waveform.astype(np.float32))


def write_dataset(folder: Path | str, clips_per_label: int, seed: int) -> Dataset:
    """Write a dataset in the form of SC09 (FLAC, 16 kHz, manifest) and return it.

    Each label gets one test and one validation clip in five (at least one of each), the rest is "train".
    Names of speakers are chosen so that the official hash rule gives each file the split that it has. The
    same arguments write the same samples. Raises InputError for fewer than 3 clips a label.
    """
    if clips_per_label < 3:
        raise InputError(f"Three splits need at least 3 clips a label, not {clips_per_label}.")
    root = Path(folder)
    rng = np.random.default_rng(seed)
    held_out = max(1, clips_per_label // 5)
    splits = ["test"] * held_out + ["validation"] * held_out
    splits += ["train"] * (clips_per_label - len(splits))
    speakers = [_speaker(split, rng) for split in splits]
    clips: list[Clip] = []
    for label in DIGITS:
        (root / label).mkdir(parents=True, exist_ok=True)
        for speaker, split in zip(speakers, splits, strict=True):
            name = f"{label}/{speaker}_nohash_0.flac"
            waveform = word(label, rng)
            audio.write(root / name, waveform, SAMPLE_RATE)
            seconds = waveform.shape[0] / SAMPLE_RATE
            clips.append(Clip(name, root / name, label, speaker, split, seconds, SAMPLE_RATE))
    dataset = Dataset(root.resolve().name, root, clips)
    write_manifest(dataset)
    return dataset


def _speaker(split: str, rng: np.random.Generator) -> str:
    while True:
        name = f"{rng.integers(2**32):08x}"
        if speech_commands_split(name) == split:
            return name
