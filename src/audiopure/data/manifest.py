"""Clips, datasets, and the `manifest.csv` that describes a folder of recordings."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from audiopure import audio
from audiopure.atomic import whole
from audiopure.errors import InputError

COLUMNS = ("path", "label", "speaker", "split", "seconds", "sample_rate")
ROOT_VARIABLE = "AUDIOPURE_DATA"


@dataclass(frozen=True)
class Clip:
    """One recording: `id` is its path relative to the dataset, with forward slashes, stable across machines.

    `seconds` and `sample_rate` (Hz) are those of the file; `speaker` and `text` are empty when unknown.
    """

    id: str
    path: Path
    label: str
    speaker: str
    split: str
    seconds: float
    sample_rate: int
    text: str = ""


class Dataset:
    """A named sequence of clips with an order of labels that survives taking splits and samples.

    `labels` default to the labels present, in the order of their first clip.
    """

    def __init__(
        self, name: str, root: Path, clips: Iterable[Clip], labels: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.clips = tuple(clips)
        self.labels = tuple(dict.fromkeys(clip.label for clip in self.clips)) if labels is None else labels

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} clips, {len(self.labels)} labels)"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits present, in the order of their first clip."""
        return tuple(dict.fromkeys(clip.split for clip in self.clips))

    def targets(self) -> Tensor:
        """Index of each clip's label in `labels`. Shape: (clips,), int64."""
        index = {label: i for i, label in enumerate(self.labels)}
        return torch.tensor([index[clip.label] for clip in self.clips], dtype=torch.int64)

    def with_clips(self, clips: Iterable[Clip]) -> Dataset:
        """The same dataset, labels included, holding only `clips`."""
        return Dataset(self.name, self.root, clips, self.labels)

    def split(self, name: str) -> Dataset:
        """The clips of one split. Raises InputError if there are none."""
        chosen = [clip for clip in self.clips if clip.split == name]
        if not chosen:
            raise InputError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits) or 'none'}.")
        return self.with_clips(chosen)

    def stratified(self, n: int, seed: int) -> Dataset:
        """`n` clips, as equal in number over the labels as the supply allows.

        The choice depends on the ids and the seed alone, not on the order of the manifest or on a library's
        generator, and a smaller choice with the same seed is contained in a larger one. Clips come label by
        label in turn. Raises InputError if `n` is not between 1 and the number of clips.
        """
        if not 1 <= n <= len(self):
            raise InputError(f"Cannot choose {n} clips from {self.name}, which has {len(self)}.")

        def rank(clip: Clip) -> bytes:
            return hashlib.sha256(f"{seed}:{clip.id}".encode()).digest()

        groups = [sorted((c for c in self.clips if c.label == label), key=rank) for label in self.labels]
        rounds = zip_longest(*groups)
        chosen = [clip for turn in rounds for clip in turn if clip is not None]
        return self.with_clips(chosen[:n])

    def load(self, clip: Clip, sample_rate: int = 16000) -> Tensor:
        """Decode one clip, average its channels, resample. Shape: (T,), float32 in [-1, 1].

        Raises InputError if the file is missing, damaged, or differs from what the manifest says of it.
        """
        if not clip.path.is_file():
            raise InputError(f"{clip.path}: listed in dataset {self.name} but the file does not exist.")
        waveform, rate = audio.read(clip.path)
        seconds = waveform.shape[-1] / rate
        if rate != clip.sample_rate:
            raise InputError(f"{clip.path}: sample rate is {rate} Hz, the manifest says {clip.sample_rate}.")
        # Manifests round the duration; 10 ms is far above rounding and far below a wrong file.
        if abs(seconds - clip.seconds) > 0.01:
            raise InputError(f"{clip.path}: lasts {seconds:.4f} s, the manifest says {clip.seconds} s.")
        mono = audio.resample(waveform.mean(dim=0), rate, sample_rate)
        # The resampling filter rings beyond full scale at clipped peaks.
        return mono.clamp(-1.0, 1.0)

    def load_all(
        self,
        sample_rate: int = 16000,
        *,
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
        progress: bool = False,
    ) -> list[Tensor]:
        """Decode every clip in order. Shape of each: (T,).

        `dtype` is float32, or int16 to keep a large set in half the memory (sample = value / 32768; exact for
        16-bit files that need no resampling). More `threads` than 2 help with long clips only: for one of a
        second, the interpreter takes as long as the decoder.
        """
        if dtype not in (torch.float32, torch.int16):
            raise InputError(f"Clips load as float32 or int16, not {dtype}.")

        def decode(clip: Clip) -> Tensor:
            waveform = self.load(clip, sample_rate)
            return to_int16(waveform) if dtype is torch.int16 else waveform

        with ThreadPoolExecutor(threads) as pool:
            decoded: Iterable[Tensor] = pool.map(decode, self.clips)
            if progress:
                from rich.progress import track

                decoded = track(decoded, description=f"Reading {self.name}", total=len(self))
            return list(decoded)


def to_int16(waveform: Tensor) -> Tensor:
    """Round samples in [-1, 1] to int16 at 32768 to full scale; +1 becomes 32767. Any shape."""
    return (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)


def data_root(argument: Path | str | None = None) -> Path:
    """The folder of datasets: the argument, else the environment variable AUDIOPURE_DATA.

    Raises InputError when neither is given or the folder does not exist.
    """
    given = argument or os.environ.get(ROOT_VARIABLE)
    if not given:
        raise InputError(
            f"No folder of datasets given: pass one or set the environment variable {ROOT_VARIABLE}."
        )
    root = Path(given).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: the folder of datasets does not exist.")
    return root


def read_manifest(folder: Path | str) -> Dataset:
    """Read `folder/manifest.csv` (path,label,speaker,split,seconds,sample_rate and optionally text).

    Audio files are looked for only when a clip is loaded. Raises InputError for a manifest that is missing,
    lacks a column, or has a row that cannot be right.
    """
    folder = Path(folder)
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such manifest.")
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{manifest}: has no {', '.join(missing)} column.")
            clips = [_clip(folder, manifest, reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{manifest}: is not a UTF-8 CSV file ({error}).") from error
    _reject_duplicates(manifest, clips)
    return Dataset(folder.resolve().name, folder, clips)


def write_manifest(dataset: Dataset) -> Path:
    """Write `dataset.root/manifest.csv` describing the clips, whole or not at all, and return its path."""
    manifest = dataset.root / "manifest.csv"
    with whole(manifest) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow((*COLUMNS, "text"))
        for c in dataset:
            writer.writerow((c.id, c.label, c.speaker, c.split, round(c.seconds, 4), c.sample_rate, c.text))
    return manifest


def _clip(folder: Path, manifest: Path, line: int, row: dict[str, str | None]) -> Clip:
    values = {column: row.get(column) for column in COLUMNS}
    absent = [column for column, value in values.items() if value is None]
    if absent or None in row:
        raise InputError(f"{manifest}: line {line} has the wrong number of fields.")
    text = {column: str(value) for column, value in values.items()}
    if not text["path"] or not text["label"] or not text["split"]:
        raise InputError(f"{manifest}: line {line} needs a path, a label and a split.")
    relative = PurePosixPath(text["path"])
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"{manifest}: line {line} names {relative}, which leaves the dataset's folder.")
    try:
        seconds, rate = float(text["seconds"]), int(text["sample_rate"])
    except ValueError as error:
        raise InputError(
            f"{manifest}: line {line} has a duration or sample rate that is no number."
        ) from error
    if not (0 < seconds < float("inf")) or rate <= 0:
        raise InputError(f"{manifest}: line {line} needs a positive duration and sample rate.")
    clip = Clip(
        str(relative), folder / relative, text["label"], text["speaker"], text["split"], seconds, rate
    )
    return replace(clip, text=row.get("text") or "")


def _reject_duplicates(manifest: Path, clips: list[Clip]) -> None:
    if not clips:
        raise InputError(f"{manifest}: lists no clips.")
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise InputError(f"{manifest}: lists {clip.id} twice.")
        seen.add(clip.id)
