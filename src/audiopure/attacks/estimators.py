"""Gradients of a loss that can only be asked for its value, from antithetic random directions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from audiopure.attacks.objective import Objective
from audiopure.errors import InputError
from audiopure.noise import SeededNoise

Distribution = Literal["normal", "rademacher"]
DISTRIBUTIONS = ("normal", "rademacher")


def estimate(
    objective: Objective,
    x: Tensor,
    noise: SeededNoise,
    *,
    samples: int,
    sigma: float,
    distribution: Distribution,
) -> tuple[Tensor, Tensor]:
    """Gradient of the loss around x from `samples` passes, and their mean loss.

    The mean of u (f(x + sigma u) - f(x - sigma u)) / (2 sigma) over random directions u: with normal u the
    estimate of NES (Ilyas et al. 2018, section 2.1.1; the loss smoothed by sigma, without bias), with signs
    the one of SPSA (Spall 1992; Uesato et al. 2018, algorithm 1). With K = samples / 2 directions its cosine
    with the true gradient is about sqrt(K / (K + T)). Every pass draws the model's own randomness anew, as a
    stranger who asks a deployed system cannot replay it. The points are not cut to [-1, 1], which would bias
    the estimate for loud clips.

    Args:
        noise: directions come from `noise.fresh(0)`, the model's randomness of pass k from
            `noise.fresh(k + 1)`.
        samples: passes of each clip, two for each direction; even.
        sigma: distance of the points in units of full scale; above 0.

    Shape: (B, T) -> (B, T), (B,). The gradient is 0 beyond the clips' lengths. Raises InputError for other
    settings.
    """
    check(samples, sigma, distribution)
    batch, length = x.shape
    directions, mask = noise.fresh(0), _mask(x, objective.lengths)
    gradient, total = torch.zeros_like(x), x.new_zeros(batch)
    each = max(1, objective.max_rows // max(1, batch))
    for first in range(0, samples // 2, each):
        pairs = range(first, min(first + each, samples // 2))
        shape = {"shape": (batch, length), "device": x.device, "dtype": x.dtype}
        u = torch.stack([directions.normal(draw=k, **shape) for k in pairs])
        if distribution == "rademacher":
            u = torch.where(u < 0, -1.0, 1.0).to(x.dtype)
        u = u * mask
        ahead, behind = (_losses(objective, x + way * sigma * u, noise, pairs, way) for way in (1, -1))
        total = total + (ahead + behind).sum(0)
        # one after the other: the order of summing must not follow the size of the batch
        for direction, change in zip(u, ahead - behind, strict=True):
            gradient += change[:, None] * direction
    return gradient / (samples * sigma), total / samples


def check(samples: int, sigma: float, distribution: str = "normal") -> None:
    """Raises InputError for settings that `estimate` cannot use."""
    if samples < 2 or samples % 2:
        raise InputError(f"samples come in pairs: their number must be even and positive, got {samples}")
    if not 0 < sigma < float("inf"):
        raise InputError(f"sigma must be positive and finite, got {sigma}")
    if distribution not in DISTRIBUTIONS:
        raise InputError(f"there is no distribution '{distribution}'; there are: {', '.join(DISTRIBUTIONS)}")


def _losses(objective: Objective, points: Tensor, noise: SeededNoise, pairs: range, way: int) -> Tensor:
    """Shape: (pairs, B, T) -> (pairs, B)."""
    sources = [noise.fresh(2 * k + (1 if way > 0 else 2)) for k in pairs]
    with torch.no_grad():
        return objective.each(points, sources)[0]


def _mask(x: Tensor, lengths: Tensor | None) -> Tensor:
    """1 within the clips, 0 beyond. Shape: (B, T)."""
    if lengths is None:
        return torch.ones_like(x)
    return (torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]).to(x.dtype)
