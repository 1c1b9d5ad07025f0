"""What an attack's gradient is compared with: slopes of the loss measured by central finite differences.

All randomness of the model is frozen, so that a difference over a short step is a derivative to many digits.
A function that is constant in pieces (rounding, quantisation) betrays itself: its differences are zero for
the shortest steps and change with the step for longer ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from audiopure.attacks.objective import Objective
from audiopure.noise import SeededNoise

# Steps in L2. In double precision the shortest cross next to no kink of the thousands of ReLUs; in the
# longest some samples cross to the next 16-bit value.
STEPS: Mapping[torch.dtype, tuple[float, ...]] = {
    torch.float64: (1e-8, 1e-7, 1e-6, 1e-5, 1e-4),
    torch.float32: (1e-5, 1e-4, 1e-3),
}
STEADY = 1e-4  # relative change from one step to the next that leaves nothing open
ROUGH = 0.3  # relative change from one step to the next, ten times longer; kinks of ReLUs stay below 0.1
SMOOTH_BAND = 0.125  # of the Nyquist frequency: 1 kHz at 16 kHz
ROWS = 32  # points that go through the model at once


class Steadiness(NamedTuple):
    """How differences depend on their step, for each clip of a batch.

    Attributes:
        step: (B,) the shortest one that agrees with the next, to `STEADY`; if there is none, the longer of
            the two neighbours that agree best: arithmetic in less than double precision blurs short steps.
        rough: (B,) bool; steps beyond it disagree, as where jumps come into reach, or no steps agree.
        flat: (B,) bool; every difference is exactly zero.
    """

    step: Tensor
    rough: Tensor
    flat: Tensor


def directions(gradient: Tensor, mask: Tensor, noise: SeededNoise, count: int) -> dict[str, Tensor]:
    """Unit vectors by family, each (R, B, T) and zero where `mask` (B, T) is False.

    "random": `count` isotropic ones, Gaussian and signs in turn; the cosine of two vectors is that of their
    products with these, in expectation. "smooth": half as many below an eighth of the Nyquist frequency,
    where perceptual attacks live. "samples": three single samples. "gradient" and "gradient sign": what L2
    and L-inf attacks step along; zero where the gradient is.
    """
    shape = (len(gradient), gradient.shape[1])

    def draws(first: int, number: int) -> Tensor:
        values = [noise.normal(shape, draw=first + k, device=mask.device) for k in range(number)]
        return torch.stack(values).to(gradient.dtype)

    random = draws(0, count)
    random[1::2] = random[1::2].sign()
    spectrum = torch.fft.rfft(draws(1000, (count + 1) // 2))
    spectrum[..., int(SMOOTH_BAND * spectrum.shape[-1]) + 1 :] = 0
    samples = torch.zeros(3, *shape, dtype=gradient.dtype, device=mask.device)
    where = draws(2000, 3).masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    samples.scatter_(-1, where, 1.0)
    families = {
        "random": random,
        "smooth": torch.fft.irfft(spectrum, n=shape[1]),
        "samples": samples,
        "gradient": gradient[None],
        "gradient sign": gradient.sign()[None],
    }
    return {name: _unit(family * mask) for name, family in families.items()}


def _unit(vectors: Tensor) -> Tensor:
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, vectors / length, torch.zeros_like(vectors))


def slopes(
    objective: Objective, x: Tensor, along: Tensor, step: Tensor, noise: SeededNoise, draws: int
) -> Tensor:
    """Central differences of the mean loss over frozen draws. Shape: along (R, B, T), step (B,) -> (R, B)."""
    clips = len(x)
    offsets = step[:, None] * along
    points = torch.stack([x + offsets, x - offsets], dim=1)  # both ends of a difference in the same batch
    flat = points.flatten(0, 2)
    index = torch.arange(clips, device=x.device).repeat(2 * len(along))
    values = []
    for rows in torch.arange(len(flat), device=x.device).split(ROWS):
        part, own = flat[rows], index[rows]
        values.append(objective.rows(own).value(part, noise.rows(own.tolist()), draws))
    ahead, behind = torch.cat(values).reshape(len(along), 2, clips).unbind(1)
    return (ahead - behind) / (2 * step)


def steadiness(objective: Objective, x: Tensor, along: Tensor, noise: SeededNoise, draws: int) -> Steadiness:
    """Differences along a few directions (R, B, T) at every step of `STEPS`."""
    steps: Sequence[float] = STEPS[x.dtype]
    ladder = torch.stack(
        [slopes(objective, x, along, x.new_full((len(x),), step), noise, draws) for step in steps]
    )
    size = ladder.square().mean(1).sqrt()  # (steps, B)
    change = ladder.diff(dim=0).square().mean(1).sqrt()
    larger = torch.maximum(size[1:], size[:-1])
    disagreement = torch.where(larger > 0, change / larger, torch.zeros_like(change))
    steady, best = disagreement < STEADY, disagreement.argmin(0)
    best = torch.where(steady.any(0), steady.int().argmax(0), best)
    beyond = torch.arange(len(disagreement), device=x.device)[:, None] >= best
    best = best + (~steady.any(0)).int()
    flat = (size == 0).all(0)
    rough = ((disagreement > ROUGH) & beyond).any(0)
    return Steadiness(x.new_tensor(steps)[best], rough, flat)


def cosine(measured: Tensor, predicted: Tensor) -> Tensor:
    """Of two vectors of slopes; 0 where one of them vanishes. Shape: (R, ...) -> (...)."""
    norms = measured.norm(dim=0) * predicted.norm(dim=0)
    dots = (measured * predicted).sum(0)
    return torch.where(norms > 0, dots / norms, torch.zeros_like(dots))


def relative_error(measured: Tensor, predicted: Tensor) -> Tensor:
    """Norm of the difference over the larger norm; 1 where both vanish. Shape: (R, ...) -> (...)."""
    larger = torch.maximum(measured.norm(dim=0), predicted.norm(dim=0))
    error = (measured - predicted).norm(dim=0)
    return torch.where(larger > 0, error / larger, torch.ones_like(larger))
