"""How gradients pass through the reverse process. An attack's honesty is decided here, by an explicit choice.

Strategies differ in the backward pass alone: outputs are equal bit for bit for the exact ones, up to rounding
for the others. The paper's adjoint, which needs `torchsde`, is in `adjoint.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from audiopure.diffusion.denoiser import Denoiser, EpsConstant
from audiopure.diffusion.samplers import Step


class Gradient:
    """Runs the steps of a reverse process. `exact` says whether the backward pass is the true derivative."""

    exact = True

    def __call__(
        self,
        steps: Sequence[Step],
        denoiser: Denoiser,
        x: Tensor,
        noise: Sequence[Tensor | None],
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The result of all steps.

        Args:
            noise: z of each step, None for steps that draw none.

        Shape: x (B, T) -> (B, T).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Full(Gradient):
    """Plain autograd: exact; memory grows with the number of steps."""

    def __call__(self, steps, denoiser, x, noise, lengths=None):
        for step, z in zip(steps, noise, strict=True):
            x = step(denoiser, x, z, lengths)
        return x


@dataclass(frozen=True)
class Recompute(Gradient):
    """Exact; keeps x_n of each step and runs the network again in the backward pass.

    Memory is that of one step plus one waveform a step, at the price of one more forward pass.
    """

    def __call__(self, steps, denoiser, x, noise, lengths=None):
        if not torch.is_grad_enabled():
            return Full()(steps, denoiser, x, noise, lengths)
        for step, z in zip(steps, noise, strict=True):
            # all randomness is in z, so the global generator's state need not be saved and restored
            x = checkpoint(step, denoiser, x, z, lengths, use_reentrant=False, preserve_rng_state=False)  # type: ignore[assignment]
        return x


@dataclass(frozen=True)
class NetworkConstant(Gradient):
    """The noise estimate is a constant in the backward pass, as in the paper's released code. Not exact."""

    exact = False

    def __call__(self, steps, denoiser, x, noise, lengths=None):
        return Full()(steps, EpsConstant(denoiser), x, noise, lengths)


@dataclass(frozen=True)
class Identity(Gradient):
    """BPDA (Athalye et al. 2018) with the identity for the whole reverse process. Not exact."""

    exact = False

    def __call__(self, steps, denoiser, x, noise, lengths=None):
        with torch.no_grad():
            out = Full()(steps, denoiser, x, noise, lengths)
        return x + (out - x).detach()
