"""Speakers: enrolled voices, and a speaker encoder as a recogniser of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from audiopure.data import Dataset, load_dataset
from audiopure.errors import InputError

SECONDS = 3.2  # of each utterance that enrolment hears


class Identifier(nn.Module):
    """Names the enrolled speaker whose centroid is nearest.

    Args:
        encoder: waveforms (B, T) to embeddings (B, D) of length 1, with `sample_rate`.
        centroids: (S, D), of any length.
        labels: names of the speakers.

    Shape: waveforms (B, T) -> (B, S), minus the squared distances.
    """

    centroids: Tensor

    def __init__(self, encoder: nn.Module, centroids: Tensor, labels: Sequence[str]):
        super().__init__()
        if centroids.ndim != 2 or len(centroids) != len(labels) or len(labels) < 2:
            raise InputError("identification needs a centroid for each of two speakers or more")
        self.encoder, self.labels = encoder, tuple(labels)
        self.sample_rate = int(encoder.sample_rate)  # type: ignore[arg-type]
        self.register_buffer("centroids", centroids)

    def forward(self, waveform: Tensor) -> Tensor:
        return -torch.cdist(self.encoder(waveform), self.centroids).square()


@torch.inference_mode()
def enrol(encoder: nn.Module, dataset: Dataset) -> Identifier:
    """An identifier of the speakers who label a dataset: each centroid is the mean of its embeddings."""
    rate = int(encoder.sample_rate)  # type: ignore[arg-type]
    sums: dict[str, list[Tensor]] = {}
    for clip, waveform in zip(dataset, dataset.load_all(rate), strict=True):
        sums.setdefault(clip.label, []).append(encoder(cut(waveform, rate)[None])[0])
    labels = sorted(sums)
    return Identifier(encoder, torch.stack([torch.stack(sums[name]).mean(0) for name in labels]), labels)


def cut(waveform: Tensor, sample_rate: int) -> Tensor:
    """The first `SECONDS` of an utterance. Shape: (T,) -> (at most SECONDS sample_rate,)."""
    return waveform[: round(SECONDS * sample_rate)]


def enrolled(encoder: nn.Module, folder: str | Path) -> Identifier:
    """`enrol` on the split "enroll" of a folder, or on all of one without splits."""
    dataset = load_dataset(folder)
    return enrol(encoder, dataset.split("enroll") if "enroll" in dataset.splits else dataset)
