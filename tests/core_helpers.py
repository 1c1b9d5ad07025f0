"""What the tests of the mathematical core share: a small random network and noise that isolates one draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audiopure.nets.stft_denoiser import StftDenoiser


def random_denoiser(seed: int = 0, *, width: int = 12, blocks: int = 2) -> StftDenoiser:
    """A float64 denoiser with every parameter random, so that its Jacobian is nowhere trivial."""
    generator = torch.Generator().manual_seed(seed)
    net = StftDenoiser(width=width, blocks=blocks).double()
    for parameter in net.parameters():
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
        with torch.no_grad():
            parameter.normal_(0.0, fan**-0.5, generator=generator)
    return net.requires_grad_(False)


def signal(batch: int, length: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    """White noise in float64."""
    return scale * torch.randn(
        batch, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@dataclass
class OneDraw:
    """Noise that is 1 in one draw and 0 in all others: it reads a linear purifier's coefficients off."""

    which: int | None
    asked: int = 0

    def normal(self, shape, *, draw, start=0, device="cpu", dtype=torch.float32) -> Tensor:
        self.asked += 1
        return torch.full(shape, float(draw == self.which), device=device, dtype=dtype)

    def fresh(self, number: int) -> OneDraw:
        raise AssertionError("no test of the core asks for fresh noise")
