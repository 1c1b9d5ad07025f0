"""Randomized smoothing (Cohen et al. 2019): a base classifier that hears an object through noise many times.

The smoothed classifier g(x) is the label that the base gives most often to x plus noise. The base is any
function of the noisy object, random or not: g depends on chances alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from audiopure.certification.before import Contraction, check
from audiopure.certification.draws import CHUNK, Draws, Purpose
from audiopure.certification.laws import Law
from audiopure.certification.procedures import Array, Certificate, Certify, CertifyScores, Predict, Statistic
from audiopure.certification.representations import Representation, Waveform
from audiopure.defended import takes
from audiopure.errors import InputError
from audiopure.noise import NoiseSource


@dataclass(frozen=True)
class Sampler:
    """Asks the base classifier about noisy versions of one object.

    Args:
        base: noisy objects (n, ...) to scores (n, C), of which the largest votes; it gets `noise` if its
            `forward` names it.
        law: of the smoothing noise.
        x: the object, without a batch axis.
        seed, item: of the draws.
        rows: how many noisy versions go through the base at once; changes memory and speed, not results.
    """

    base: nn.Module
    law: Law
    x: Tensor
    seed: int
    item: int
    rows: int = 64

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        """The sum of a statistic over draws first..last-1, `first` a multiple of 100, in double precision."""
        total: Tensor | None = None
        for scores in self.scores(purpose, first, last):
            found = of(scores).double()
            total = found if total is None else total + found
        if total is None:
            raise InputError(f"there are no draws from {first} to {last}")
        return total.cpu().numpy()

    def scores(self, purpose: Purpose, first: int, last: int) -> Iterator[Tensor]:
        """Scores (rows, C) of the base, batch by batch."""
        draws = Draws(self.seed, self.item, purpose)
        whole = max(1, self.rows // CHUNK) * CHUNK  # the chunks that fill a batch
        with torch.inference_mode():
            for begin in range(first, last, whole):
                count = min(whole, last - begin)
                normal = draws.normal(begin, count, tuple(self.x.shape), self.x.device).to(self.x.dtype)
                noisy = self.x + self.law.noise(normal)
                base = draws.base(begin, count)
                for k in range(0, count, self.rows):
                    part = noisy[k : k + self.rows]
                    yield ask(self.base, part, base.rows(range(k, k + len(part))))


def ask(base: nn.Module, noisy: Tensor, noise: NoiseSource) -> Tensor:
    """Scores of the base for noisy objects. Shape: (n, ...) -> (n, C).

    Raises InputError for scores of another shape, or that are not finite.
    """
    scores = base(noisy, noise=noise) if takes(base, "noise") else base(noisy)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(noisy):
        raise InputError("a base classifier returns one row of scores for each noisy object")
    if not bool(torch.isfinite(scores).all()):
        raise InputError("the base classifier returned scores that are not finite")
    return scores


@dataclass(frozen=True)
class Smoothed:
    """A smoothed classifier, to certify and to ask.

    Args:
        base: as `Sampler` has it.
        law: of the noise.
        representation: the object that gets the noise; the waveform by default.
        before: what the waveform passes before that, see `before`.
    """

    base: nn.Module
    law: Law
    representation: Representation = field(default_factory=Waveform)
    before: tuple[Contraction, ...] = ()

    def __post_init__(self) -> None:
        for step in self.before:
            check(step)

    def object(self, waveform: Tensor) -> Tensor:
        """What gets the noise. Shape: (T,) -> (...)."""
        if waveform.ndim != 1 or not len(waveform) or not bool(torch.isfinite(waveform).all()):
            raise InputError("smoothing takes one clip (time,) of finite samples")
        with torch.inference_mode():
            for step in self.before:
                waveform = step(waveform)
            return self.representation.encode(waveform[None])[0]

    def sampler(self, waveform: Tensor, *, seed: int, item: int = 0, rows: int = 64) -> Sampler:
        return Sampler(self.base, self.law, self.object(waveform), seed, item, rows)

    def certify(
        self, waveform: Tensor, how: Certify | CertifyScores | None = None, *, seed: int, item: int = 0
    ) -> Certificate:
        """A certificate for one clip; its chance to be wrong is over `seed`, which nobody may choose for it.

        Shape: (T,). Raises InputError for anything else, or samples that are not finite.
        """
        return (how or Certify())(self.sampler(waveform, seed=seed, item=item), self.law)

    def predict(
        self, waveform: Tensor, how: Predict | None = None, *, seed: int, item: int = 0
    ) -> int | None:
        """The answer for one clip, None where it cannot be told. Shape: (T,)."""
        return (how or Predict())(self.sampler(waveform, seed=seed, item=item))
