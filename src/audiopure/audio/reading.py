"""Decoding audio files and streams to float32 tensors, with every sample checked."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiopure.audio.headers import EXTENSIONS, Header, read_header
from audiopure.audio.signals import deferred
from audiopure.errors import InputError

Source = str | Path | bytes | BinaryIO

MIN_RATE, MAX_RATE = 1000, 768_000
BLOCK = 1 << 16
# 16-bit samples that were scaled by 1/32767 reach 1.00003; anything more is not rounding.
TOLERANCE = 1e-4
# Decoders of these overshoot full scale on loud music, and players clip it.
LOSSY = ("VORBIS", "OPUS", "MPEG")
INTEGER_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}


@dataclass(frozen=True)
class AudioInfo:
    """`sample_rate` in Hz, `frames` per channel; `format` and `subtype` as libsndfile names them."""

    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


class BlockReader:
    """Iterate once over a file or stream in blocks, in memory that does not grow with its length.

    Yields float32 tensors (channels, n <= block), in [-1, 1]. Input that cannot seek (a pipe) is first copied
    to a temporary file. Raises InputError, on opening or while iterating, for a file that is missing, empty,
    damaged, cut off, at odds with its header, or of another format than its name says, and for samples that
    are not finite or outside [-1, 1] by more than rounding. Overshoot of Vorbis and Opus is clamped.
    """

    def __init__(self, source: Source, block: int = BLOCK) -> None:
        self.block = block
        self.name, self._stream, self._owned = _open(source)
        try:
            self._header = read_header(self._stream, self.name)
            _check_extension(source, self._header)
            # Given a path, libsndfile reads without calling back into Python, so threads run in parallel.
            self._target = str(source) if isinstance(source, str | Path) else self._stream
            self._file, self.info = self._decoder()
        except BaseException:
            self._close_stream()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; a stream that was passed in stays open."""
        self._file.close()
        self._close_stream()

    def __iter__(self) -> Iterator[Tensor]:
        digest = _Digest(self._header.md5, self.info.subtype)
        done = 0
        while done < self.info.frames:
            samples = self._decode(done)
            if not len(samples):
                break
            digest.update(samples)
            yield torch.from_numpy(np.ascontiguousarray(self._checked(samples, done).T))
            done += len(samples)
        if done != self.info.frames:
            raise InputError(
                f"{self.name}: is cut off or damaged: its header promises "
                f"{self.info.frames} samples a channel, {done} could be decoded."
            )
        if not digest.matches():
            raise InputError(f"{self.name}: is damaged: its samples do not match the checksum in its header.")

    def _decode(self, done: int) -> np.ndarray:
        try:
            return self._file.read(min(self.block, self.info.frames - done), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(
                f"{self.name}: is cut off or damaged: its header promises {self.info.frames} samples a "
                f"channel, {self._decodable()} could be decoded ({error.error_string})"
            ) from error

    def _decodable(self) -> int:
        """Samples before the first error; a failed read does not tell."""
        frames = 0
        try:
            with self._restarted() as file:
                while count := len(file.read(256, dtype="int16")):
                    frames += count
        except soundfile.LibsndfileError:
            pass
        return frames

    def _checked(self, samples: np.ndarray, done: int) -> np.ndarray:
        peak = max(float(samples.max()), -float(samples.min()))  # NaN propagates through max and min
        if peak <= 1.0:
            return samples
        if not np.isfinite(samples).all():
            frame, channel = np.argwhere(~np.isfinite(samples))[0]
            value = samples[frame, channel]
            raise InputError(f"{self.name}: sample {done + frame} of channel {channel} is {value}.")
        if peak > 1.0 + TOLERANCE and not self.info.subtype.startswith(LOSSY):
            frame, channel = np.argwhere(np.abs(samples) > 1.0 + TOLERANCE)[0]
            value = samples[frame, channel]
            raise InputError(
                f"{self.name}: sample {done + frame} of channel {channel} is {value:g}, outside [-1, 1]; "
                f"scale the file first, by at most {1 / peak:.3g}."
            )
        return samples.clip(-1.0, 1.0)

    def _decoder(self) -> tuple[soundfile.SoundFile, AudioInfo]:
        try:
            file = self._restarted()
        except soundfile.LibsndfileError as error:
            raise InputError(f"{self.name}: cannot be decoded ({error.error_string})") from error
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            raise InputError(
                f"{self.name}: its header declares {file.samplerate} Hz; "
                f"usable are {MIN_RATE} to {MAX_RATE} Hz."
            )
        frames = file.frames if self._header.frames is None else self._header.frames
        if self._header.format == "FLAC" and self._header.frames is None:
            # An encoder writing into a pipe does not know the length: decode once to count.
            frames = _count(file, self.name)
            file = self._restarted()
        if frames == 0:
            raise InputError(f"{self.name}: holds no samples.")
        info = AudioInfo(file.samplerate, file.channels, frames, self._header.format, file.subtype)
        return file, info

    def _restarted(self) -> soundfile.SoundFile:
        self._stream.seek(0)
        return _Forward(self._target)

    def _close_stream(self) -> None:
        if self._owned:
            self._stream.close()


def read(source: Source) -> tuple[Tensor, int]:
    """Decode a whole file, its bytes, or a binary stream.

    Shape: waveform (channels, T), float32 in [-1, 1]; and the sample rate in Hz. Raises InputError as
    `BlockReader` does.
    """
    with BlockReader(source, block=1 << 20) as reader:
        blocks = list(reader)
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)), reader.info.sample_rate


def probe(source: Source) -> AudioInfo:
    """Read a file's header, checked against the file's length. Raises InputError as `BlockReader` does."""
    with BlockReader(source) as reader:
        return reader.info


class _Forward(soundfile.SoundFile):
    """A decoder that never seeks.

    soundfile otherwise seeks after each block, which FLAC of unknown length cannot do and FLAC does slowly.
    """

    def seekable(self) -> bool:
        return False

    def read(self, *args: Any, **kwargs: Any) -> Any:
        with deferred():
            return super().read(*args, **kwargs)


class _Digest:
    """MD5 of the decoded integers, which FLAC stores; finds a header that declares too few samples too."""

    def __init__(self, expected: bytes | None, subtype: str) -> None:
        self.bits = INTEGER_BITS.get(subtype)
        self.expected = expected if self.bits else None
        self.hash = hashlib.md5(usedforsecurity=False)

    def update(self, samples: np.ndarray) -> None:
        if self.expected is None or self.bits is None:
            return
        if self.bits == 24:
            wide = (samples * np.float32(2**23)).astype("<i4")
            self.hash.update(wide.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
        else:
            narrow = "<i2" if self.bits == 16 else "i1"
            self.hash.update((samples * np.float32(2 ** (self.bits - 1))).astype(narrow).tobytes())

    def matches(self) -> bool:
        return self.expected is None or self.hash.digest() == self.expected


def _open(source: Source) -> tuple[str, BinaryIO, bool]:
    """Name for messages, seekable stream, and whether it is ours to close."""
    if isinstance(source, bytes):
        return "audio data", io.BytesIO(source), True
    if isinstance(source, str | Path):
        return _open_path(Path(source))
    name = "standard input" if source is sys.stdin.buffer else str(getattr(source, "name", "audio stream"))
    if source.seekable():
        return name, source, False
    spooled = tempfile.TemporaryFile()
    shutil.copyfileobj(source, spooled)
    return name, spooled, True


def _open_path(path: Path) -> tuple[str, BinaryIO, bool]:
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(f"{path}: unsupported extension {path.suffix!r}; use {', '.join(EXTENSIONS)}.")
    try:
        return str(path), path.open("rb"), True
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error


def _check_extension(source: Source, header: Header) -> None:
    if isinstance(source, str | Path):
        promised = EXTENSIONS[Path(source).suffix.lower()]
        if promised != header.format:
            raise InputError(f"{source}: is named as {promised} but holds {header.format}.")


def _count(file: soundfile.SoundFile, name: str) -> int:
    frames = 0
    try:
        while count := len(file.read(BLOCK, dtype="int16")):
            frames += count
    except soundfile.LibsndfileError as error:
        raise InputError(f"{name}: is damaged after {frames} samples ({error.error_string})") from error
    return frames
