"""Explicit, replayable noise.

A noise value is a pure function of (seed, item, draw, absolute sample position): it does not depend on the
batch an item sits in, on how a long recording is cut into chunks, or on what was drawn before. The function
is the counter-based generator Philox4x64-10 (Salmon et al. 2011) followed by the Box-Muller transform.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from audiopure.errors import InputError

FORWARD = 0  # the draw that eq. 9 adds; reverse steps draw 1, 2, ...
_BLOCK = 4  # 64-bit words for each Philox counter; two words make two normal values


class NoiseSource(Protocol):
    """Where all randomness of a purification comes from."""

    def normal(
        self,
        shape: tuple[int, int],
        *,
        draw: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal values for samples start..start+T-1 of each of B items.

        Args:
            shape: (B, T).
            draw: which independent noise of the item: FORWARD, or the number of the reverse step.
            start: absolute position of the first sample in the recording.

        Shape: (B, T).
        """
        ...

    def fresh(self, number: int) -> NoiseSource:
        """An independent source, the same for the same `number`: fresh passes, EOT samples, restarts."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Noise that can be replayed bit for bit.

    Args:
        seed: any non-negative integer below 2**64.
        items: identity of each row of a batch, by default its index. A clip keeps its noise whatever batch it
            is in if its row carries the same identity. Integers like the seed.

    Raises InputError for a seed or an item outside that range.
    """

    seed: int
    items: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in [("a seed", self.seed), *(("an item", item) for item in self.items or ())]:
            if not isinstance(value, Integral) or not 0 <= value < 2**64:
                raise InputError(f"{name} must be an integer between 0 and 2**64 - 1, got {value!r}")

    def for_items(self, items: Sequence[int]) -> SeededNoise:
        """The same noise for a batch whose rows are these items."""
        return replace(self, items=tuple(int(i) for i in items))

    def rows(self, index: Sequence[int]) -> SeededNoise:
        """The same noise for some rows of the batch."""
        return self.for_items(index if self.items is None else [self.items[i] for i in index])

    def fresh(self, number: int) -> SeededNoise:
        digest = hashlib.blake2b(f"{int(self.seed)}/{number}".encode(), digest_size=8).digest()
        return replace(self, seed=int.from_bytes(digest, "little"))

    def normal(
        self,
        shape: tuple[int, int],
        *,
        draw: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        batch, length = shape
        items = self.items if self.items is not None else tuple(range(batch))
        if len(items) != batch:
            raise InputError(f"the noise source names {len(items)} items but the batch has {batch}")
        first = start // _BLOCK
        blocks = -(-(start + length) // _BLOCK) - first
        words = np.empty((batch, blocks * _BLOCK), dtype=np.uint64)
        for row, item in zip(words, items, strict=True):
            counter = np.array([first, 0, draw, 0], dtype=np.uint64)
            key = np.array([self.seed, item], dtype=np.uint64)
            row[:] = np.random.Philox(counter=counter, key=key).random_raw(blocks * _BLOCK)
        # doubles are computed as doubles: float64 audits see the noise of float32 runs, unrounded
        exact = dtype == torch.float64
        values = _box_muller(words, torch.float64 if exact else torch.float32)
        offset = start - first * _BLOCK
        return values[:, offset : offset + length].to(device=device, dtype=dtype)


class _Secret(int):
    """An integer that shows itself only to arithmetic."""

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("the seed of secret noise can be neither copied nor stored")


@dataclass(frozen=True)
class SecretNoise(SeededNoise):
    """Noise whose seed is neither shown, copied nor stored: a known seed is a weaker defence."""

    seed: int = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", _Secret(self.seed))

    def __reduce__(self) -> NoReturn:
        raise TypeError("secret noise can be neither copied nor stored, as its seed would be known")


def system_noise() -> SecretNoise:
    """A source seeded by the operating system's entropy: what a deployed defence uses, anew on each call."""
    return SecretNoise(secrets.randbits(64))


def _box_muller(words: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Pairs of 64-bit words -> pairs of normal values; never infinite, as the uniform is never 0."""
    # shifted by PyTorch as signed words, then masked: torch.compile knows no shift of unsigned ones
    bits = (torch.from_numpy(words.view(np.int64)) >> 11) & (2**53 - 1)
    uniform = (bits.to(torch.float64) + 0.5).mul_(2.0**-53).to(dtype)
    radius, angle = uniform[:, 0::2], uniform[:, 1::2]
    radius = torch.log(radius.clamp(min=torch.finfo(dtype).tiny)).mul_(-2).sqrt_()
    angle = angle * (2 * torch.pi)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(1)
