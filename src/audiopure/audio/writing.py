"""Encoding tensors to audio files that appear whole or not at all."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiopure.audio.headers import EXTENSIONS
from audiopure.audio.reading import AudioInfo
from audiopure.audio.signals import deferred
from audiopure.errors import InputError

logger = logging.getLogger(__name__)

Destination = str | Path | BinaryIO

KEPT_SUBTYPES = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
}
# The nearest that holds no less, for sources whose own subtype the target format lacks.
NEAREST = {
    ("FLAC", "FLOAT"): "PCM_24",
    ("FLAC", "DOUBLE"): "PCM_24",
    ("FLAC", "PCM_32"): "PCM_24",
    ("FLAC", "PCM_U8"): "PCM_S8",
    ("WAV", "PCM_S8"): "PCM_U8",
}
FALLBACK = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS"}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
INTEGER_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "ULAW": 16, "ALAW": 16, "PCM_24": 24, "PCM_32": 32}
SAMPLE_BYTES = {"PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}
MAX_WAV_BYTES = 2**32 - 4096
# libvorbis puts a whole write on its stack.
MAX_WRITE = 1 << 15


class BlockWriter:
    """Write a file or stream block by block; the destination changes only when the last block is written.

    A file is written beside its destination with the suffix `.part` and then renamed; leaving the `with`
    block by an exception removes it. A stream (standard output) receives the finished file in one go, with a
    true header. Samples beyond +-1 are clamped; `clamped` counts them, and closing logs a warning if there
    were any.

    The format follows the destination's extension; for a stream it is `format`. `subtype` is one of
    libsndfile's names (PCM_16, PCM_24, FLOAT ...); by default that of `like`, the source, if the format has
    it, else the nearest, else 16 bits. Raises InputError for what cannot be written.
    """

    def __init__(
        self,
        destination: Destination,
        sample_rate: int,
        channels: int,
        *,
        subtype: str | None = None,
        like: AudioInfo | None = None,
        format: str = "WAV",
    ) -> None:
        self.clamped = 0
        self.frames = 0
        self.channels = channels
        self._path = Path(destination) if isinstance(destination, str | Path) else None
        self._out = None if isinstance(destination, str | Path) else destination
        self.name = "the output stream" if self._path is None else str(self._path)
        if self._path is not None:
            format = _format_of(self._path)
        self.format = format
        self.subtype = _choose_subtype(format, subtype, like, sample_rate, self.name)
        self._part = self._temporary()
        self._sink = _Sink(self._part)
        try:
            with deferred():
                self._file = soundfile.SoundFile(
                    self._sink,  # type: ignore[arg-type]
                    "w",
                    sample_rate,
                    channels,
                    self.subtype,
                    format=format,
                )
        except (soundfile.LibsndfileError, ValueError, OverflowError) as error:
            self._discard()
            self._check_sink()
            raise InputError(
                f"{self.name}: cannot be written as {format} {self.subtype}, {channels} channels at "
                f"{sample_rate} Hz."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, block: Tensor) -> None:
        """Append a block (channels, n). Raises InputError for a wrong shape, NaN or infinity."""
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise InputError(
                f"{self.name}: a block of shape {tuple(block.shape)} for {self.channels} channels."
            )
        samples = block.detach().to("cpu", torch.float32).numpy().T
        if not np.isfinite(samples).all():
            frame, channel = np.argwhere(~np.isfinite(samples))[0]
            raise InputError(
                f"{self.name}: sample {self.frames + frame} of channel {channel} to be written is "
                f"{samples[frame, channel]}."
            )
        self.clamped += int(np.count_nonzero(np.abs(samples) > 1.0))
        self.frames += len(samples)
        if self.format == "WAV":
            self._check_size()
        for start in range(0, len(samples), MAX_WRITE):
            self._append(_encode(samples[start : start + MAX_WRITE], self.subtype))

    def _append(self, samples: np.ndarray) -> None:
        try:
            with deferred():
                self._file.write(samples)
        except (AssertionError, soundfile.LibsndfileError):
            if self._sink.error is None:
                raise
        self._check_sink()

    def _check_sink(self) -> None:
        error = self._sink.error
        if error is not None:
            raise InputError(f"{self.name}: cannot be written ({error.strerror}).") from error

    def close(self) -> None:
        """Finish the file and put it in place."""
        if self._file.closed:
            return
        try:
            with deferred():
                self._file.close()
            self._sink.flush()
            self._check_sink()
            if self._path is not None:
                self._part.close()
                os.replace(self._part.name, self._path)
            elif self._out is not None:
                self._part.seek(0)
                shutil.copyfileobj(self._part, self._out)
                self._out.flush()
                self._part.close()
        except BaseException:
            self._discard()
            raise
        if self.clamped:
            logger.warning("%s: %d samples beyond full scale were clamped", self.name, self.clamped)

    def abort(self) -> None:
        """Leave the destination as it was."""
        if not self._file.closed:
            with deferred():
                self._file.close()
            self._discard()

    def _temporary(self) -> BinaryIO:
        if self._path is None:
            return tempfile.TemporaryFile()  # type: ignore[return-value]
        if self._path.is_dir():
            raise InputError(f"{self._path}: is a folder, not a file to write.")
        part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
        # known before the file is: a signal may end the program between its making and the `with` block
        weakref.finalize(self, _remove, part)
        try:
            return part.open("x+b")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}).") from error

    def _discard(self) -> None:
        with suppress(OSError):  # what is still buffered may not fit on the disk either
            self._part.close()
        if self._path is not None:
            _remove(Path(self._part.name))

    def _check_size(self) -> None:
        size = self.frames * self.channels * SAMPLE_BYTES.get(self.subtype, 4)
        if size > MAX_WAV_BYTES:
            raise InputError(f"{self.name}: a WAV file cannot exceed 4 GiB; write FLAC.")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


class _Sink:
    """A file for libsndfile that keeps the first error: exceptions do not pass through its C code."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self.file.seek(offset, whence)
        except OSError as error:  # seeking writes what is buffered
            self.error = self.error or error
            return -1

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error


def write(
    path: Destination,
    waveform: Tensor,
    sample_rate: int,
    subtype: str | None = None,
    *,
    like: AudioInfo | None = None,
) -> int:
    """Write a waveform (T,) or (channels, T) to a file or stream at once, as `BlockWriter` does.

    Returns the number of samples beyond [-1, 1], which are clamped. Integers survive: reading a 16-bit file
    and writing it gives the same samples.
    """
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2 or waveform.numel() == 0:
        raise InputError(f"{path}: cannot write a waveform of shape {tuple(waveform.shape)}.")
    with BlockWriter(path, sample_rate, waveform.shape[0], subtype=subtype, like=like) as writer:
        writer.write(waveform)
    return writer.clamped


def _format_of(path: Path) -> str:
    format = EXTENSIONS.get(path.suffix.lower())
    if format is None:
        raise InputError(f"{path}: unsupported extension {path.suffix!r}; use {', '.join(EXTENSIONS)}.")
    return format


def _choose_subtype(
    format: str, subtype: str | None, like: AudioInfo | None, sample_rate: int, name: str
) -> str:
    kept = KEPT_SUBTYPES[format]
    if subtype is not None:
        if subtype not in kept:
            raise InputError(f"{name}: {format} has no subtype {subtype!r}; use {', '.join(kept)}.")
        return subtype
    if like is None or (like.subtype == "OPUS" and sample_rate not in OPUS_RATES):
        return FALLBACK[format]
    if like.subtype in kept:
        return like.subtype
    return NEAREST.get((format, like.subtype), FALLBACK[format])


def _encode(samples: np.ndarray, subtype: str) -> np.ndarray:
    """Clamp to full scale and round to the integers of `subtype`, inverse to decoding by 2 ** (bits - 1).

    libsndfile's own conversion scales by 2 ** (bits - 1) - 1 and so does not return what it read.
    """
    clamped = samples.clip(-1.0, 1.0)
    bits = INTEGER_BITS.get(subtype)
    if bits is None:
        return np.ascontiguousarray(clamped)
    scale = 2.0 ** (bits - 1)
    integers = np.rint(clamped.astype(np.float64) * scale).clip(-scale, scale - 1).astype(np.int64)
    if bits == 16:
        return np.ascontiguousarray(integers, dtype=np.int16)
    return np.ascontiguousarray(integers << (32 - bits), dtype=np.int32)
