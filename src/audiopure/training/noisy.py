"""White noise of many levels, as training for certificates hears and judges by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEVELS = (0.05, 0.1, 0.25, 0.5)  # of the noise in validation
HELD_OUT = 300  # clips of the validation split that each of these hears


def drawn(seed: int, step: int, count: int, least: float, most: float) -> tuple[Tensor, np.random.Generator]:
    """Sigmas (count,) between two levels, evenly in their logarithm, and where noise is to be drawn from."""
    rng = np.random.default_rng([seed, step, 2])
    return torch.from_numpy(np.exp(rng.uniform(np.log(least), np.log(most), count))).float(), rng


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Tensor:
    """Standard normal noise in float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def versions(clips: Tensor, seed: int) -> list[Tensor]:
    """The clips at each of LEVELS."""
    generator = torch.Generator().manual_seed(seed)
    return [clips + sigma * torch.randn(clips.shape, generator=generator) for sigma in LEVELS]
