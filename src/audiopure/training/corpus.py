"""Training clips held in memory as 16-bit integers, from which batches of crops are cut."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from audiopure.data.manifest import Dataset


class Corpus:
    """All clips of a dataset in one flat int16 tensor: a hundred thousand seconds fit in a few GiB."""

    def __init__(self, dataset: Dataset, *, sample_rate: int = 16_000):
        clips = dataset.load_all(sample_rate, dtype=torch.int16)
        self.lengths = np.array([len(clip) for clip in clips])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.samples = torch.cat(clips)
        self.targets = dataset.targets()

    def __len__(self) -> int:
        return len(self.lengths)

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all samples, the clips' lengths and their labels."""
        known = hashlib.sha256(self.samples.numpy().tobytes())
        known.update(self.lengths.astype("<i8").tobytes())
        known.update(self.targets.numpy().astype("<i8").tobytes())
        return known.hexdigest()[:16]

    def crops(self, items: Sequence[int] | np.ndarray, offsets: np.ndarray, length: int) -> Tensor:
        """Windows of `length` samples that begin `offsets` samples into each item, zero outside the clip.

        Shape: (len(items), length), float32 in [-1, 1). Negative offsets put silence first.
        """
        items = np.asarray(items)
        position = torch.from_numpy(offsets.astype(np.int64))[:, None] + torch.arange(length)
        lengths = torch.from_numpy(self.lengths[items])[:, None]
        inside = (position >= 0) & (position < lengths)
        index = torch.from_numpy(self.starts[items])[:, None] + position.clamp(min=0).minimum(lengths - 1)
        return self.samples[index].to(torch.float32).mul_(inside).div_(32768)

    def random_crops(self, count: int, length: int, rng: np.random.Generator) -> Tensor:
        """Crops of uniformly drawn clips at uniform places; a shorter clip lies whole in its window."""
        items = rng.integers(len(self), size=count)
        slack = self.lengths[items] - length
        offsets = np.round(rng.random(count) * slack)
        return self.crops(items, offsets, length)
