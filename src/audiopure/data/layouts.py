"""Datasets as their authors publish them, read without a manifest.

A further dataset is one function from its folder to a `Dataset` and one line in `DATASETS`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from audiopure import audio
from audiopure.data.manifest import Clip, Dataset, data_root, read_manifest
from audiopure.errors import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COMMANDS10 = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
COMMANDS35 = (
    *DIGITS, *COMMANDS10, "backward", "bed", "bird", "cat", "dog", "follow", "forward", "happy", "house",
    "learn", "marvin", "sheila", "tree", "visual", "wow",
)  # fmt: skip
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "dev": "validation", "valid": "validation",
    "validation": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def speech_commands_split(name: str, validation: float = 10.0, test: float = 10.0) -> str:
    """The official split ("train", "validation" or "test") of a file or speaker name.

    Warden 2018, "Speech Commands", section 7: the name up to `_nohash_` is hashed with SHA-1, so that all
    recordings of a speaker fall in one split and never move when the set grows. Percentages in [0, 100].
    """
    speaker = re.sub(r"_nohash_.*$", "", Path(name).name)
    modulus = 2**27
    bucket = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % modulus
    percent = bucket * 100.0 / (modulus - 1)
    if percent < validation:
        return "validation"
    return "test" if percent < validation + test else "train"


def speech_commands(folder: Path, words: tuple[str, ...] = COMMANDS35, name: str = "commands35") -> Dataset:
    """Google Speech Commands, v0.01 or v0.02: `word/speaker_nohash_index.wav`.

    Splits follow `validation_list.txt` and `testing_list.txt` where both are there, else the hash rule.
    """
    listed: dict[str, str] = {}
    lists = {"validation": folder / "validation_list.txt", "test": folder / "testing_list.txt"}
    use_lists = all(path.is_file() for path in lists.values())
    if use_lists:
        listed = {
            line.strip(): split for split, path in lists.items() for line in path.open() if line.strip()
        }

    def describe(path: Path) -> dict[str, str]:
        key = f"{path.parent.name}/{path.name}"
        split = listed.get(key, "train") if use_lists else speech_commands_split(path.name)
        speaker = re.sub(r"_nohash_.*$", "", path.stem)
        return {"label": path.parent.name, "speaker": speaker, "split": split}

    present = tuple(word for word in words if (folder / word).is_dir())
    files = [path for word in present for path in _audio_files(folder / word)]
    return _dataset(name, folder, files, describe, present)


def fsdd(folder: Path) -> Dataset:
    """FSDD: `[recordings/]digit_speaker_index.wav`; indices 0 to 4 are the test split."""
    pattern = re.compile(r"(\d)_(.+)_(\d+)")
    files = [path for path in _audio_files(folder) if pattern.fullmatch(path.stem)]

    def describe(path: Path) -> dict[str, str]:
        digit, speaker, index = re.fullmatch(pattern, path.stem).groups()  # type: ignore[union-attr]
        split = "test" if int(index) < 5 else "train"
        return {"label": DIGITS[int(digit)], "speaker": speaker, "split": split}

    return _dataset("fsdd", folder, files, describe, DIGITS)


def librispeech(folder: Path) -> Dataset:
    """LibriSpeech: `[subset/]speaker/chapter/speaker-chapter-utterance.flac` with `*.trans.txt` beside it.

    The label is the speaker. A clip's split is the first word of its subset's name (`dev` is "validation").
    """
    files = [p for p in _audio_files(folder) if re.fullmatch(r"\d+-\d+-\d+", p.stem)]
    texts: dict[str, str] = {}
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for line in transcript.read_text(encoding="utf-8").splitlines():
            utterance, _, text = line.partition(" ")
            texts[utterance] = text

    def describe(path: Path) -> dict[str, str]:
        subset = path.resolve().parents[2].name
        split = SPLIT_FOLDERS.get(subset.split("-")[0], subset)
        speaker = path.stem.split("-")[0]
        return {"label": speaker, "speaker": speaker, "split": split, "text": texts.get(path.stem, "")}

    return _dataset("librispeech", folder, files, describe)


def qualcomm(folder: Path) -> Dataset:
    """Qualcomm Keyword Speech Dataset: `keyword/speaker/*.wav`, four keywords, 0.48 to 1.92 s.

    It has no official split, and the paper's (appendix E) depends on the order of its authors' file system;
    this one keeps speakers apart, by the hash rule of Speech Commands on the speaker's name.
    """
    files = [path for path in _audio_files(folder) if len(path.relative_to(folder).parts) == 3]

    def describe(path: Path) -> dict[str, str]:
        keyword, speaker, _ = path.relative_to(folder).parts
        return {"label": keyword, "speaker": speaker, "split": speech_commands_split(speaker)}

    return _dataset("qualcomm", folder, files, describe)


def labelled_folder(folder: Path) -> Dataset:
    """Any folder of audio in which a file's folder is its label: `[split/]label/[...]/file`.

    Folders above the label named train, dev, valid, validation or test give the split; without any, every
    clip is in "test".
    """
    files = [path for path in _audio_files(folder) if len(_below_split(folder, path)) > 1]

    def describe(path: Path) -> dict[str, str]:
        split = SPLIT_FOLDERS.get(path.relative_to(folder).parts[0].lower(), "test")
        return {"label": _below_split(folder, path)[0], "speaker": "", "split": split}

    return _dataset(folder.resolve().name, folder, files, describe)


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "sc09": partial(speech_commands, words=DIGITS, name="sc09"),
    "commands10": partial(speech_commands, words=COMMANDS10, name="commands10"),
    "commands35": speech_commands,
    "fsdd": fsdd,
    "librispeech": librispeech,
    "qualcomm": qualcomm,
    "folder": labelled_folder,
    "manifest": read_manifest,
}


def load_dataset(
    name_or_path: str | Path, root: Path | str | None = None, split: str | None = None
) -> Dataset:
    """Find a dataset by what a user would type.

    `LAYOUT:PATH` reads a published layout (a key of `DATASETS`); a path to a folder reads its manifest, or
    without one takes folder names for labels; a bare name is a folder under `data_root(root)`, read by its
    manifest or else as the layout of that name. Raises InputError saying what was looked for.
    """
    dataset = _find(name_or_path, root)
    return dataset if split is None else dataset.split(split)


def _find(name_or_path: str | Path, root: Path | str | None) -> Dataset:
    text = str(name_or_path)
    layout, colon, place = text.partition(":")
    if colon and layout in DATASETS:
        return DATASETS[layout](_folder(place))
    is_path = isinstance(name_or_path, Path) or text.startswith((".", "~")) or "/" in text or "\\" in text
    if is_path:
        return _read(_folder(text), "folder")
    try:
        parent = data_root(root)
    except InputError as error:
        if root is None and Path(text).is_dir():
            return _read(Path(text), "folder")
        raise InputError(f"Cannot look for dataset {text!r}: {error}") from error
    if not (parent / text).is_dir():
        known = sorted(p.parent.name for p in parent.glob("*/manifest.csv"))
        raise InputError(
            f"No dataset {text!r} under {parent} (it has {', '.join(known) or 'none'}); name one of those, "
            f"a folder's path, or LAYOUT:PATH with one of {', '.join(DATASETS)}."
        )
    return _read(parent / text, text if text in DATASETS else "folder")


def _read(folder: Path, layout: str) -> Dataset:
    if (folder / "manifest.csv").is_file():
        return read_manifest(folder)
    return DATASETS[layout](folder)


def _folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    return folder


def _audio_files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in audio.EXTENSIONS)
    return sorted(p for p in found if not p.name.startswith("."))


def _below_split(folder: Path, path: Path) -> tuple[str, ...]:
    parts = path.relative_to(folder).parts
    return parts[1:] if parts[0].lower() in SPLIT_FOLDERS else parts


def _dataset(
    name: str,
    folder: Path,
    files: Iterable[Path],
    describe: Callable[[Path], dict[str, str]],
    labels: tuple[str, ...] | None = None,
) -> Dataset:
    """Probe the files' headers and name their clips by their paths below `folder`."""

    def clip(path: Path) -> Clip:
        info = audio.probe(path)
        seconds = info.frames / info.sample_rate
        about = describe(path)
        return Clip(
            path.relative_to(folder).as_posix(), path, seconds=seconds, sample_rate=info.sample_rate, **about
        )

    with ThreadPoolExecutor() as pool:
        clips = list(pool.map(clip, files))
    if not clips:
        raise InputError(f"{folder}: holds no audio files laid out as {name} needs.")
    return Dataset(name, folder, clips, labels)
