"""From what a user names to what is read and where the result goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from audiopure.errors import InputError

STREAM = "-"
EXTENSIONS = (".wav", ".flac", ".ogg")
Resume = Annotated[bool, typer.Option(help="Leave out files whose result is there already.")]


class Job(NamedTuple):
    """One file to do; None is standard input or standard output."""

    source: Path | None
    target: Path | None
    makes_folder: bool = False  # whether the target's folder may be created


def plan(
    inputs: Sequence[str],
    output: str | None,
    *,
    overwrite: bool,
    resume: bool = False,
    suffixes: Mapping[str, str] | None = None,
) -> list[Job]:
    """The files that `inputs` name, and their targets.

    A single file goes to the file `output`, or into it if it is a folder. Several files, or a folder
    (searched recursively for audio), go into the folder `output`, with the structure below the named folder
    kept, and names too but for `suffixes` (old -> new) of targets in a folder. To `resume` is to leave out
    those whose target exists: files are written whole or not at all.
    "-" is standard input, and as an output standard output, the default for it.

    Raises InputError for an input that does not exist, a missing or unfit output, two inputs with one target,
    an output folder inside an input folder, a target that exists already unless `overwrite` or `resume`, and
    to `resume` what would go back to its own source.
    """
    if overwrite and resume:
        raise InputError("--overwrite replaces what --resume would keep; choose one.")
    if STREAM in inputs:
        if len(inputs) > 1:
            raise InputError("standard input (-) cannot be combined with other inputs.")
        return _checked([Job(None, None if output in (None, STREAM) else Path(output))], overwrite, resume)
    paths = _existing(inputs)
    if output is None:
        raise InputError("say where the result goes: -o FILE, -o FOLDER, or -o - for standard output.")
    suffixes = suffixes or {}
    if len(paths) == 1 and not paths[0].is_dir():
        return _checked([_single(paths[0], output, suffixes)], overwrite, resume)
    folder = Path(output)
    if output == STREAM or folder.is_file() or (folder.suffix.lower() in EXTENSIONS and not folder.is_dir()):
        raise InputError(f"{output}: the result of several files or of a folder goes into a folder.")
    return _checked([job for path in paths for job in _into(path, folder, suffixes)], overwrite, resume)


def sources(inputs: Sequence[str]) -> list[Path]:
    """The files that `inputs` name, folders searched recursively; InputError as `plan` raises it."""
    return [file for path in _existing(inputs) for file in (_audio_in(path) if path.is_dir() else [path])]


def _existing(inputs: Sequence[str]) -> list[Path]:
    paths = [Path(name) for name in inputs]
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file.")
    return paths


def _single(path: Path, output: str, suffixes: Mapping[str, str]) -> Job:
    if output == STREAM:
        return Job(path, None)
    target = Path(output)
    return Job(path, _renamed(target / path.name, suffixes) if target.is_dir() else target)


def _into(path: Path, folder: Path, suffixes: Mapping[str, str]) -> Iterator[Job]:
    if not path.is_dir():
        yield Job(path, _renamed(folder / path.name, suffixes), makes_folder=True)
        return
    if folder.resolve().is_relative_to(path.resolve()):
        raise InputError(f"{folder}: the output folder lies inside the input folder {path}.")
    for source in _audio_in(path):
        yield Job(source, _renamed(folder / source.relative_to(path), suffixes), makes_folder=True)


def _audio_in(folder: Path) -> list[Path]:
    found = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
    )
    if not found:
        raise InputError(f"{folder}: holds no audio files ({', '.join(EXTENSIONS)}).")
    return found


def _renamed(path: Path, suffixes: Mapping[str, str]) -> Path:
    return path.with_suffix(suffixes.get(path.suffix.lower(), path.suffix))


def _in_place(job: Job) -> bool:
    """Whether the result would replace its source."""
    if job.source is None or job.target is None:
        return False
    return job.target.exists() and job.target.samefile(job.source)


def _checked(jobs: list[Job], overwrite: bool, resume: bool) -> list[Job]:
    targets = [job.target for job in jobs if job.target is not None]
    doubled = next((target for i, target in enumerate(targets) if target in targets[:i]), None)
    if doubled is not None:
        raise InputError(f"{doubled}: two of the inputs would be written there.")
    if resume:
        own = next((job.target for job in jobs if _in_place(job)), None)
        if own is not None:
            raise InputError(f"{own}: is an input; --resume would take it for its own result.")
        return [job for job in jobs if job.target is None or not job.target.exists()]
    existing = [target for target in targets if target.exists()]
    if existing and not overwrite:
        others = f" (and {len(existing) - 1} other files)" if len(existing) > 1 else ""
        raise InputError(f"{existing[0]}{others}: exists already; --overwrite replaces it.")
    return jobs
