"""The smoothed classifier as a model to attack, at the waveform or at any other object.

A smoothed classifier has no gradient: it counts votes. What an attacker climbs in its place is the mean
probability of the labels over draws of the noise (SmoothAdv, Salman et al. 2019); whether that found anything
is for `Predict` to say.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiopure.attacks.objective import Stacked
from audiopure.certification.laws import Law
from audiopure.certification.smoothing import Smoothed, ask
from audiopure.errors import InputError
from audiopure.noise import NoiseSource


class ExpectedScores(nn.Module):
    """Logarithms of mean probabilities over `draws` of the smoothing noise, differentiable.

    Attacks bound what they change to [-1, 1] and take rows of numbers, so an object is flattened and divided
    by `scale`; a radius in the object's norm is to be divided by it as well.

    Args:
        smoothed: what is attacked; its steps before the noise are not part of this.
        shape: of the object, without a batch axis.
        scale: the largest size of a number that the object may have.
        draws: of each call; an attack's EOT adds to them.

    Shape: objects over scale, flattened, (B, D) -> (B, C).
    """

    def __init__(self, smoothed: Smoothed, shape: tuple[int, ...], *, scale: float = 1.0, draws: int = 4):
        super().__init__()
        if draws < 1 or not scale > 0:
            raise InputError(f"expected scores need draws and a positive scale, got {draws} and {scale:g}")
        self.base, self.law = smoothed.base, smoothed.law
        self.shape, self.scale, self.draws = shape, scale, draws

    def forward(self, x: Tensor, *, noise: NoiseSource) -> Tensor:
        objects = (self.scale * x).unflatten(1, self.shape)
        sources = [noise.fresh(k) for k in range(self.draws)]
        noisy = torch.cat([objects + _drawn(self.law, source, objects) for source in sources])
        scores = ask(self.base, noisy, Stacked(tuple(sources)))
        chances = scores.log_softmax(1).unflatten(0, (self.draws, len(x)))
        return chances.logsumexp(0) - math.log(self.draws)

    def flat(self, objects: Tensor) -> Tensor:
        """Objects (B, ...) as this model takes them. Shape: -> (B, D)."""
        return objects.flatten(1) / self.scale

    def whole(self, x: Tensor) -> Tensor:
        """The inverse of `flat`. Shape: (B, D) -> (B, ...)."""
        return (self.scale * x).unflatten(1, self.shape)


def _drawn(law: Law, source: NoiseSource, objects: Tensor) -> Tensor:
    flat = objects.flatten(1)
    shape = (flat.shape[0], flat.shape[1])
    normal = source.normal(shape, draw=SMOOTHING, device=objects.device, dtype=objects.dtype)
    return law.noise(normal.reshape(objects.shape))


SMOOTHING = 1 << 20  # the draw of the smoothing noise, none that a defence's own noise uses
