"""Purify recordings from seconds to hours in memory that does not grow with their length.

A recording is cut into chunks of fixed length. Each is purified with the purifier's receptive field to both
sides, on the denoiser's frame grid, with the noise of its absolute position and the gain of the whole
recording, which a first pass has measured. The chunks joined are, to float32 round-off, the whole recording
purified at once.

The purifier works at its own rate, 16 kHz. What lies above half of that (8 kHz) in a recording of a higher
rate is removed: what the purifier cannot clean must not pass.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from audiopure.audio import AudioInfo, BlockReader, BlockWriter, StreamResampler
from audiopure.errors import InputError
from audiopure.level import FRAME
from audiopure.noise import SeededNoise, system_noise
from audiopure.purifier import Purifier

CHUNK_SECONDS = 20.0


class Window(NamedTuple):
    """A chunk with its margins.

    `samples` (C, n) begin at `start` of the recording; the chunk is `count` of them from `skip` on.
    """

    samples: Tensor
    start: int
    skip: int
    count: int


def windows(blocks: Iterable[Tensor], chunk: int, margin: int) -> Iterator[Window]:
    """Cut a stream of blocks (C, n) into windows whose chunks follow each other without gap.

    Chunks have `chunk` samples, the last one up to `chunk + margin`. Margins have `margin` samples, fewer
    only at the recording's ends.
    """
    held: Tensor | None = None
    start = position = 0  # of `held` and of the next chunk
    for block in blocks:
        held = block if held is None else torch.cat([held, block], dim=1)
        while start + held.shape[1] >= position + chunk + margin:
            end = position + chunk + margin
            yield Window(held[:, : end - start], start, position - start, chunk)
            position += chunk
            keep = max(0, position - margin)
            held, start = held[:, keep - start :], keep
    if held is not None and start + held.shape[1] > position:
        yield Window(held, start, position - start, start + held.shape[1] - position)


def purify_blocks(
    blocks: Callable[[], Iterable[Tensor]],
    sample_rate: int,
    purifier: Purifier,
    *,
    noise: SeededNoise | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
) -> Iterator[Tensor]:
    """Purify a recording given as blocks; yields as many samples as it is given.

    Args:
        blocks: called once for each of two passes (once if the level is fixed); each time it gives the whole
            recording as float32 blocks (channels, n), in [-1, 1].
        sample_rate: Hz.
        noise: replayable noise; by default fresh noise from the operating system's entropy. Channel c is
            item c.
        chunk_seconds: work done at once; memory grows with it and with the purifier's receptive field.

    Yields float32 blocks (channels, m), which may leave [-1, 1] slightly. Raises InputError for a recording
    of less than one sample at the purifier's rate.
    """
    noise = noise or system_noise()
    working = purifier.sample_rate
    gain = recording_gain(blocks(), sample_rate, purifier)
    chunk = _on_grid(max(1, round(chunk_seconds * working)), purifier.denoiser.hop)
    margin = _on_grid(purifier.receptive_field, purifier.denoiser.hop)
    given = _Counted(blocks())
    back: StreamResampler | None = None
    done = 0
    for window in windows(resampled(given, sample_rate, working), chunk, margin):
        clean = purify_window(window, purifier, noise, gain)
        back = back or StreamResampler(working, sample_rate, len(clean))
        piece = back.push(clean)[:, : given.count - done]
        done += piece.shape[1]
        yield piece
    if back is None:
        raise InputError(f"{given.count} samples at {sample_rate} Hz are too short to purify.")
    # rounding the length to the working rate and back may lose or gain a sample
    rest = back.flush()[:, : given.count - done]
    yield torch.nn.functional.pad(rest, (0, given.count - done - rest.shape[1]))


def purify_file(
    source: str | Path | BinaryIO,
    destination: str | Path | BinaryIO,
    purifier: Purifier,
    *,
    noise: SeededNoise | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    report: Callable[[float], None] = lambda seconds: None,
) -> AudioInfo:
    """Purify a file or stream into another with the same rate, channels, number of samples and encoding.

    Args:
        source: WAV, FLAC or Ogg; a stream that cannot seek is first copied to a temporary file.
        destination: appears whole or not at all. The extension chooses its format, and another encoding only
            where that format lacks the source's; a stream gets the source's format.
        report: called with the seconds purified so far.

    Returns what the source is. Raises InputError as `BlockReader`, `BlockWriter` and `purify_blocks` do.
    """
    with rewindable(source) as recording:
        with BlockReader(recording) as reader:
            info = reader.info

        def blocks() -> Iterator[Tensor]:
            with BlockReader(recording) as reader:
                yield from reader

        clean = purify_blocks(blocks, info.sample_rate, purifier, noise=noise, chunk_seconds=chunk_seconds)
        with BlockWriter(
            destination, info.sample_rate, info.channels, like=info, format=info.format
        ) as writer:
            for block in clean:
                writer.write(block)
                report(writer.frames / info.sample_rate)
    return info


def recording_gain(blocks: Iterable[Tensor], sample_rate: int, purifier: Purifier) -> Tensor | None:
    """The gain that the purifier's level policy gives the whole recording, None if it has none.

    Shape: blocks (channels, n) -> (channels, 1).
    """
    frames = CHUNK_SECONDS * purifier.sample_rate // FRAME
    working = resampled(blocks, sample_rate, purifier.sample_rate)
    total: Tensor | None = None
    for window in windows(working, int(frames) * FRAME, 0):
        energy = purifier.level.energy(window.samples.double())
        if energy is None:
            return None
        total = energy if total is None else total + energy
    return None if total is None else purifier.level.gain(total).float()  # type: ignore[union-attr, arg-type]


def purify_window(window: Window, purifier: Purifier, noise: SeededNoise, gain: Tensor | None) -> Tensor:
    """The window's chunk, purified. Shape: (channels, window.count), float32, on the CPU.

    Channels go one by one, so that memory does not grow with their number.
    """
    parameter = next(purifier.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    inner = slice(window.skip, window.skip + window.count)
    clean = torch.empty(len(window.samples), window.count)
    with torch.inference_mode():
        for channel, samples in enumerate(window.samples.to(device)):
            clean[channel] = purifier(
                samples[None],
                noise=noise.for_items([channel]),
                start=window.start,
                gain=None if gain is None else gain[channel : channel + 1].to(device),
            )[0, inner]
    return clean


def resampled(blocks: Iterable[Tensor], sample_rate: int, working: int) -> Iterator[Tensor]:
    """The stream at another rate. Shape: blocks (channels, n) -> blocks (channels, m), m may be 0."""
    resampler: StreamResampler | None = None
    for block in blocks:
        resampler = resampler or StreamResampler(sample_rate, working, len(block))
        yield resampler.push(block)
    if resampler is not None:
        yield resampler.flush()


class _Counted:
    """Passes blocks on and counts their samples."""

    def __init__(self, blocks: Iterable[Tensor]):
        self.blocks = blocks
        self.count = 0

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.blocks:
            self.count += block.shape[1]
            yield block


@contextmanager
def rewindable(source: str | Path | BinaryIO) -> Iterator[str | Path | BinaryIO]:
    """The source in a form that can be read twice."""
    if isinstance(source, str | Path) or source.seekable():
        yield source
        return
    with tempfile.TemporaryFile(buffering=0) as spool:
        shutil.copyfileobj(source, spool)
        # error messages call a stream by its name
        spool.name = "standard input" if source is sys.stdin.buffer else getattr(source, "name", "the stream")
        yield spool


def _on_grid(samples: int, hop: int) -> int:
    return -(-samples // hop) * hop
