"""Clips to evaluate on: the shipped ones, or labelled audio of the user's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from audiopure.data import Dataset, collate, load_dataset
from audiopure.errors import InputError

SHIPPED_NOTE = (
    "The clips are synthetic and were chosen because the recogniser hears them: the clean accuracy without a "
    "defence is 100 % by selection."
)


@dataclass(frozen=True)
class Clips:
    """Clips with 16-bit samples in [-1, 1], their labels as indices of the recogniser's, and their source."""

    dataset: Dataset
    waveforms: list[Tensor]
    targets: list[int]
    split: str | None
    of: int
    note: str | None

    @property
    def ids(self) -> list[str]:
        return [clip.id for clip in self.dataset]

    @property
    def items(self) -> list[int]:
        """What names each clip to the noise source: the same in any selection."""
        return [item_of(name) for name in self.ids]


@dataclass(frozen=True)
class Batch:
    """Some clips, padded: indices into the clips, waveforms (B, T), labels (B,), lengths (B,), items."""

    index: list[int]
    waveform: Tensor
    labels: Tensor
    lengths: Tensor
    items: list[int]

    def rows(self, chosen: Sequence[int]) -> Batch:
        """The part of the batch with these clips; the padding stays."""
        rows = [self.index.index(i) for i in chosen]
        return Batch(
            list(chosen),
            self.waveform[rows],
            self.labels[rows],
            self.lengths[rows],
            [self.items[row] for row in rows],
        )

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            waveform=self.waveform.to(device),
            labels=self.labels.to(device),
            lengths=self.lengths.to(device),
        )


def item_of(name: str) -> int:
    """A number below 2**63 that stands for a clip's name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def digest(waveform: Tensor) -> str:
    """First digits of the SHA-256 of a clip's 16-bit samples. Shape: (T,)."""
    samples = (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)
    return hashlib.sha256(samples.numpy().tobytes()).hexdigest()[:16]


def load_clips(
    folder: Path | str | None,
    recogniser: nn.Module,
    count: int | None,
    seed: int,
    splits: Sequence[str] = ("test",),
) -> Clips:
    """Up to `count` clips (None: all), equal over labels, of the shipped set or a folder.

    Of data that have one of `splits`, the first of those.

    Raises InputError if the folder holds no clip with a label that the recogniser knows.
    """
    labels: tuple[str, ...] = recogniser.labels  # type: ignore[assignment]
    if folder is None:
        dataset = load_dataset(Path(str(resources.files("audiopure") / "assets" / "clips")))
        notes = [SHIPPED_NOTE]
    else:
        dataset, notes = load_dataset(folder), []
    split = None if folder is None else next((name for name in splits if name in dataset.splits), None)
    if split is not None:
        dataset = dataset.split(split)
    elif len(dataset.splits) > 1:
        notes.append(f"The data has no split {splits[0]}: clips of {', '.join(dataset.splits)} are mixed.")
    known = dataset.with_clips(clip for clip in dataset if clip.label in labels)
    unknown = sorted({clip.label for clip in dataset} - set(labels))
    if not len(known):
        raise InputError(
            f"{folder}: no clip has a label that the recogniser knows ({', '.join(labels)}); "
            f"its labels are {', '.join(unknown[:12])}."
        )
    if unknown:
        left = len(dataset) - len(known)
        notes.append(f"{left} clips with labels that the recogniser does not know were left out.")
    chosen = known.stratified(min(count or len(known), len(known)), seed)
    rate: int = recogniser.sample_rate  # type: ignore[assignment]
    waveforms = [samples.float() / 32768 for samples in chosen.load_all(rate, dtype=torch.int16)]
    targets = [labels.index(clip.label) for clip in chosen]
    return Clips(chosen, waveforms, targets, split, len(known), " ".join(notes) or None)


def batches(clips: Clips, size: int, at_least: int, chosen: Sequence[int] | None = None) -> Iterator[Batch]:
    """Clips, all or the `chosen` ones by their index, in batches that no clip's result depends on.

    A recogniser that averages over time hears the padding, so only clips of equal length share a batch;
    shorter ones than `at_least` samples, which the recogniser itself pads to that, count as that long.
    """
    groups: dict[int, list[int]] = {}
    for index in range(len(clips.waveforms)) if chosen is None else chosen:
        groups.setdefault(max(at_least, len(clips.waveforms[index])), []).append(index)
    items = clips.items
    for length, group in groups.items():
        for first in range(0, len(group), size):
            index = group[first : first + size]
            waveform, lengths = collate([clips.waveforms[i] for i in index])
            waveform = nn.functional.pad(waveform, (0, length - waveform.shape[1]))
            labels = torch.tensor([clips.targets[i] for i in index])
            yield Batch(index, waveform, labels, lengths, [items[i] for i in index])
