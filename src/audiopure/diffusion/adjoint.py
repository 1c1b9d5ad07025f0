"""The paper's adjoint gradient (eq. 16; Li et al. 2020), by `torchsde`. For comparison, never for robustness.

Time is counted in steps instead of 1/N: one step of the reverse process is one Euler-Maruyama step of width 1
and all times are whole numbers, exact in any precision. (The released code needs a shift of 1e-5 instead, and
its backward pass asks the network at the wrong steps: n - 1 in place of n.)

The adjoint does not replay the states of the forward pass: it integrates them back from the result, one Euler
step for each step, and takes the derivative at the states it finds. That is where its error comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.diffusion.denoiser import Denoiser
from audiopure.diffusion.gradient import Gradient
from audiopure.diffusion.samplers import Step
from audiopure.errors import MissingExtraError


@dataclass(frozen=True)
class Adjoint(Gradient):
    """The stochastic adjoint method on the reverse SDE; memory does not grow with the steps. Not exact.

    Made for the steps of `ReverseSde` (eqs. 10-13), it takes any process of steps x + drift + noise z. The
    outputs equal those of the other strategies up to rounding. Second derivatives are not available.

    Raises MissingExtraError without `torchsde`.
    """

    exact = False

    def __call__(
        self,
        steps: Sequence[Step],
        denoiser: Denoiser,
        x: Tensor,
        noise: Sequence[Tensor | None],
        lengths: Tensor | None = None,
    ) -> Tensor:
        torchsde = _torchsde()
        if not steps:
            return x
        sde = _ReverseProcess(steps, denoiser, lengths)
        times = torch.tensor([0.0, float(len(steps))], dtype=x.dtype, device=x.device)
        drawn = _Draws(noise, x)
        out = torchsde.sdeint_adjoint(
            sde, x, times, drawn, "euler", "euler", dt=1.0, adjoint_params=sde.trained
        )[-1]
        if out.requires_grad:
            out.register_hook(sde.turn_round)
        return out


class _ReverseProcess(nn.Module):
    """The steps as an Ito SDE from time 0 (noisy) to n_star (clean): f is a step's drift, g its noise."""

    sde_type = "ito"
    noise_type = "diagonal"

    def __init__(self, steps: Sequence[Step], denoiser: Denoiser, lengths: Tensor | None):
        super().__init__()
        self.steps = steps
        self.denoiser = denoiser
        self.lengths = lengths
        self.backwards = False
        parameters = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
        self.trained = tuple(p for p in parameters if p.requires_grad)

    def turn_round(self, gradient: Tensor) -> None:
        """From here on steps are asked for at their later end: the hook of the adjoint's starting point."""
        self.backwards = True

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self._step(t)(self.denoiser, y, None, self.lengths) - y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, self._step(t).noise)

    def _step(self, t: Tensor) -> Step:
        # step k covers the times k..k+1; Euler's method evaluates an interval at the end it comes from
        return self.steps[round(float(t)) - self.backwards]


class _Draws:
    """The Brownian motion whose increments over whole steps are the purifier's own draws."""

    levy_area_approximation = "none"

    def __init__(self, noise: Sequence[Tensor | None], like: Tensor):
        self.noise = noise
        self.zero = torch.zeros_like(like, requires_grad=False)
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        drawn = self.noise[round(float(ta))]
        return self.zero if drawn is None else drawn


def _torchsde() -> Any:
    try:
        import torchsde
    except ImportError as error:
        raise MissingExtraError("the adjoint needs torchsde: pip install 'audiopure[sde]'") from error
    return torchsde
