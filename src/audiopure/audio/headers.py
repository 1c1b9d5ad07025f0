"""What a file's own header promises, checked against the bytes that are there.

libsndfile repairs a WAV header silently and plays what it finds; half a recording then passes for a whole
one. So the promise is read here, independently of the decoder.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from audiopure.errors import InputError

EXTENSIONS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}

PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
# Writers that cannot seek back (ffmpeg, sox into a pipe) leave a length at or just below a power of two.
OPEN_ENDED = 0x7FFF0000
MIRRORED_BYTES = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Header:
    """`frames` per channel and `md5` of the decoded samples, each None where the header does not say."""

    format: str
    frames: int | None = None
    md5: bytes | None = None


def read_header(stream: BinaryIO, name: str) -> Header:
    """Recognise WAV, FLAC or Ogg by its first bytes and check its lengths; leaves the stream at its start.

    Raises InputError for an empty or unrecognised file, one that is cut off, or a header that contradicts
    itself or the file.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    magic = stream.read(12)
    if size == 0:
        raise InputError(f"{name}: is empty (0 bytes).")
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:12] == b"WAVE":
        header = _wav(stream, name, size)
    elif magic[:4] == b"fLaC":
        header = _flac(stream, name)
    elif magic[:4] == b"OggS":
        header = _ogg(stream, name, size)
    else:
        raise InputError(f"{name}: is not a WAV, FLAC or Ogg file.")
    stream.seek(0)
    return header


def _wav(stream: BinaryIO, name: str, size: int) -> Header:
    position, block_align, long_size = 12, None, None
    while position + 8 <= size:
        stream.seek(position)
        identifier, length = struct.unpack("<4sI", stream.read(8))
        position += 8
        if identifier == b"ds64":
            long_size = struct.unpack("<Q", stream.read(16).ljust(16, b"\0")[8:])[0]
        elif identifier == b"fmt ":
            block_align = _wav_format(stream.read(min(length, 40)), name)
        elif identifier == b"data":
            if long_size is not None and length == 0xFFFFFFFF:
                length = long_size
            elif length >= OPEN_ENDED and position + length > size:
                length = size - position
            return Header("WAV", _wav_frames(stream, name, position, length, size, block_align))
        position += length + length % 2
    raise InputError(f"{name}: is a WAV file without samples (no data chunk).")


def _wav_format(chunk: bytes, name: str) -> int | None:
    """Bytes a frame, or None for compressed WAV."""
    if len(chunk) < 16:
        raise InputError(f"{name}: its WAV format chunk is too short ({len(chunk)} bytes).")
    tag, channels, rate, byte_rate, block_align, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack("<H", chunk[24:26])[0]
    if rate == 0 or channels == 0:
        raise InputError(f"{name}: its header declares {channels} channels at {rate} Hz.")
    if tag not in (PCM, FLOAT, ALAW, MULAW):
        return None
    if block_align != channels * ((bits + 7) // 8) or byte_rate != rate * block_align:
        raise InputError(
            f"{name}: its header contradicts itself: {channels} channels of {bits} bits at {rate} Hz, but "
            f"{block_align} bytes a frame and {byte_rate} bytes a second."
        )
    return block_align


def _wav_frames(
    stream: BinaryIO, name: str, start: int, length: int, size: int, block_align: int | None
) -> int | None:
    unit = block_align or 1
    what = "samples" if block_align else "bytes"
    if start + length > size:
        raise InputError(
            f"{name}: is cut off: its header promises {length // unit} {what} a channel, "
            f"the file holds {(size - start) // unit}."
        )
    end = start + length + length % 2
    while end + 8 <= size:
        stream.seek(end)
        identifier, following = struct.unpack("<4sI", stream.read(8))
        if not identifier.strip(b"\0").isascii() or end + 8 + following > size:
            raise InputError(
                f"{name}: its header is wrong: it declares {length // unit} {what}, but "
                f"{size - end} more bytes follow."
            )
        end += 8 + following + following % 2
    return length // block_align if block_align else None


def _flac(stream: BinaryIO, name: str) -> Header:
    stream.seek(4)
    block = stream.read(38)
    if len(block) < 38 or block[0] & 0x7F != 0:
        raise InputError(f"{name}: is cut off within its FLAC header.")
    packed = int.from_bytes(block[14:22], "big")
    if packed >> 44 == 0:
        raise InputError(f"{name}: its header declares a sample rate of 0 Hz.")
    frames, md5 = packed & (2**36 - 1), block[22:38]
    return Header("FLAC", frames or None, md5 if any(md5) else None)


def _ogg(stream: BinaryIO, name: str, size: int) -> Header:
    """Walk the pages (RFC 3533): a decoder skips a damaged one and plays on, with a gap."""
    position, expected, ended = 0, dict[int, int](), dict[int, bool]()
    stream.seek(0)
    while position < size:
        head = stream.read(27)
        table = stream.read(head[26]) if len(head) == 27 else b""
        body = stream.read(sum(table))
        where = f"at byte {position} of {size}"
        if head[:4] != b"OggS"[: len(head)]:
            raise InputError(f"{name}: is damaged: no Ogg page starts {where}.")
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            raise InputError(f"{name}: is cut off within the Ogg page {where}.")
        kind, _, serial, sequence, checksum = struct.unpack("<BQIII", head[5:26])
        if _ogg_crc(head[:22] + bytes(4) + head[26:] + table + body) != checksum:
            raise InputError(f"{name}: is damaged: the Ogg page {where} does not match its checksum.")
        if sequence != expected.get(serial, sequence):
            raise InputError(f"{name}: is damaged: Ogg pages are missing {where}.")
        expected[serial], ended[serial] = sequence + 1, bool(kind & 4)
        position += len(head) + len(table) + len(body)
    if not all(ended.values()):
        raise InputError(f"{name}: is cut off: its {size} bytes end without the last page of the Ogg stream.")
    return Header("OGG")


def _ogg_crc(page: bytes) -> int:
    """CRC-32 as Ogg takes it: high bit first, no inversions. zlib's is low bit first: mirror bits."""
    mirrored = zlib.crc32(page.translate(MIRRORED_BYTES), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
