"""The draws of a certificate: numbered, replayable, and fast on any device.

Draws come in chunks of `CHUNK`; the values of a chunk are a function of (seed, purpose, item, chunk) and the
device alone, so that neither the size of batches nor an interruption changes a certificate, and draws for
different purposes are independent. `noise.SeededNoise` would do as well, but makes every value on the CPU,
sample position by sample position, which a certificate does not need and a GPU would wait for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from audiopure.errors import InputError
from audiopure.noise import SeededNoise

CHUNK = 100
Purpose = Literal["select", "estimate", "predict", "pilot"]


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

    def _chunk(self, number: int, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
        generator = torch.Generator(device=device)
        generator.manual_seed(self._seed(str(number)) & (2**63 - 1))
        return torch.randn((CHUNK, *shape), generator=generator, device=device)

    def _seed(self, part: str) -> int:
        name = f"{self.seed}/{self.purpose}/{self.item}/{part}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
