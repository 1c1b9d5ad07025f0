"""Classifiers and votes of which the smoothed answer is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor, nn

from audiopure.certification.draws import Purpose
from audiopure.certification.procedures import Array, Statistic, votes
from audiopure.noise import NoiseSource

SIGMA = 0.5


def linear(weights: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], len(weights))
    layer.weight.data, layer.bias.data = weights, bias
    return layer.requires_grad_(False)


def half_space(samples: int = 40) -> nn.Linear:
    """Two labels with the border <w, x> = 0, |w| = 1."""
    w = torch.randn(samples, generator=torch.Generator().manual_seed(3))
    w = w / w.norm()
    return linear(torch.stack([w, -w]), torch.zeros(2))


def at_margin(model: nn.Linear, margin: float) -> Tensor:
    w = model.weight[0]
    return margin * w / w.norm()


class Drawn:
    """A base classifier of which only the shares of its votes are known."""

    def __init__(self, shares: Sequence[float], rng: np.random.Generator | None):
        self.shares, self.rng = np.asarray(shares), rng

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        assert of is votes
        if self.rng is None:
            return np.round(self.shares * (last - first)).astype(np.float64)
        return self.rng.multinomial(last - first, self.shares).astype(np.float64)

    def whole(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        raise NotImplementedError


class Coin(nn.Module):
    """Its answer is random by itself: label 0 with a chance that the first sample sets."""

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        chance = torch.from_numpy(ndtr(noisy[:, 0].double().numpy()))
        draw = noise.normal((len(noisy), 1), draw=0)[:, 0]
        heads = torch.from_numpy(ndtr(draw.double().numpy())) < chance
        return torch.stack([heads.float(), 1 - heads.float()], 1)
