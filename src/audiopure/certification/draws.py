"""The draws of a certificate: numbered, replayable, and fast on any device.

Draws come in chunks of `CHUNK`; the values of a chunk are a function of (seed, purpose, item, chunk) and the
device alone, so that neither the size of batches nor an interruption changes a certificate, and draws for
different purposes are independent. `noise.SeededNoise` would do as well, but makes every value on the CPU,
sample position by sample position, which a certificate does not need and a GPU would wait for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from audiopure.errors import InputError
from audiopure.noise import SeededNoise

CHUNK = 100
CHUNKS = 2**28  # of one purpose
MOST = CHUNK * CHUNKS  # draws
Purpose = Literal["select", "estimate", "predict", "pilot"]  # their order enters seeds


@dataclass(frozen=True)
class Draws:
    """Noise of the draws for one item.

    Args:
        seed: of the certificate.
        item: identity of the clip.
        purpose: draws for different purposes share nothing.
    """

    seed: int
    item: int
    purpose: Purpose

    def normal(
        self, first: int, count: int, shape: tuple[int, ...], device: torch.device | str = "cpu"
    ) -> Tensor:
        """Standard normal values of draws first..first + count - 1. Shape: (count, *shape), float32.

        Raises InputError unless `first` begins a chunk.
        """
        if first % CHUNK or count < 1:
            raise InputError(f"draws begin at multiples of {CHUNK}, got {first}")
        chunks = [self._chunk(first // CHUNK + k, shape, device) for k in range(-(-count // CHUNK))]
        return torch.cat(chunks)[:count]

    def base(self, first: int, count: int) -> SeededNoise:
        """Randomness of the base classifier itself: one item for each draw."""
        return SeededNoise(self._seed("base")).for_items(range(first, first + count))

    def chunk_seed(self, number: int, device: torch.device | str = "cpu") -> int:
        """The seed of a chunk's generator. Raises InputError for a number of 2**28 or more."""
        if not 0 <= number < CHUNKS:
            raise InputError(f"draws come in at most {CHUNKS:,} chunks, got the number {number:,}")
        if torch.device(device).type != "cpu":
            return self._seed(str(number)) & (2**63 - 1)
        # torch's CPU generator keeps 32 bits of a seed, so that chunks of a clip might get the same noise if
        # each had a hash for its seed. Instead the clip has one, from which its chunks count on, each purpose
        # in a range of its own. CPU generators with longer seeds (numpy's Philox) take three times as long.
        name = f"{self.seed}/{self.item}".encode()
        begin = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little")
        return (begin + get_args(Purpose).index(self.purpose) * CHUNKS + number) % 2**32

    def _chunk(self, number: int, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
        generator = torch.Generator(device=device)
        generator.manual_seed(self.chunk_seed(number, device))
        return torch.randn((CHUNK, *shape), generator=generator, device=device)

    def _seed(self, part: str) -> int:
        name = f"{self.seed}/{self.purpose}/{self.item}/{part}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
