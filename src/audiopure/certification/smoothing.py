"""Randomized smoothing (Cohen et al. 2019): a base classifier that hears an object through noise many times.

The smoothed classifier g(x) is the label that the base gives most often to x plus noise. The base is any
function of the noisy object, random or not: g depends on chances alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from audiopure.certification.bases import finite
from audiopure.certification.before import Contraction, check
from audiopure.certification.draws import CHUNK, Draws, Purpose
from audiopure.certification.laws import Law
from audiopure.certification.procedures import Array, Certificate, Certify, Predict, Procedure, Statistic
from audiopure.certification.representations import Representation, Waveform
from audiopure.defended import takes
from audiopure.errors import InputError
from audiopure.noise import NoiseSource


@dataclass
class Rows:
    """How many noisy objects go through a base at once: half as many once they did not fit the memory.

    Changes memory and speed, not results. Whoever shares one does not try again what did not fit.
    """

    count: int = 64

    def halve(self) -> None:
        """Raises InputError for a single row."""
        if self.count == 1:
            raise InputError(
                "a single noisy version does not fit the device's memory: cut the clip, or use the CPU"
            )
        self.count //= 2


@dataclass(frozen=True)
class Sampler:
    """Asks the base classifier about noisy versions of one object.

    Args:
        base: noisy objects (n, ...) to scores (n, C), of which the largest votes; it gets `noise` if its
            `forward` names it.
        law: of the smoothing noise.
        x: the object, without a batch axis.
        seed, item: of the draws.
        rows: how many noisy versions go through the base at once.

    Raises InputError for a base in training mode, where its answers depend on what else is in a batch, or on
    noise of no seed.
    """

    base: nn.Module
    law: Law
    x: Tensor
    seed: int
    item: int
    rows: Rows = field(default_factory=Rows)

    def __post_init__(self) -> None:
        for part in self.base.modules():
            _settled(part)

    def sum(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        """A statistic that adds up over draws, of first..last-1, `first` a multiple of 100, in doubles."""
        parts = [of(scores).double() for scores in self.scores(purpose, first, last)]
        return torch.stack(parts).sum(0).cpu().numpy()

    def whole(self, purpose: Purpose, first: int, last: int, of: Statistic) -> Array:
        """A statistic of the scores of these draws all together, in doubles."""
        return of(torch.cat(list(self.scores(purpose, first, last)))).double().cpu().numpy()

    def scores(self, purpose: Purpose, first: int, last: int) -> Iterator[Tensor]:
        """Scores (n, C) of the base, batch by batch.

        Raises InputError for no draws, or where a single row does not fit the device's memory.
        """
        if first >= last:
            raise InputError(f"there are no draws from {first} to {last}")
        while first < last:
            try:
                for scores in self._batches(purpose, first, last):
                    yield scores
                    first += len(scores)
            except torch.OutOfMemoryError:
                self.rows.halve()

    @torch.inference_mode()
    def _batches(self, purpose: Purpose, first: int, last: int) -> Iterator[Tensor]:
        """As `scores`, from any draw on, with as many rows as there are now."""
        draws, rows = Draws(self.seed, self.item, purpose), self.rows.count
        whole = max(1, rows // CHUNK) * CHUNK  # the chunks that fill a batch
        for begin in range(first - first % CHUNK, last, whole):
            count = min(whole, last - begin)
            normal = draws.normal(begin, count, tuple(self.x.shape), self.x.device).to(self.x.dtype)
            noisy = self.x + self.law.noise(normal)
            base = draws.base(begin, count)
            for k in range(max(0, first - begin), count, rows):
                part = noisy[k : k + rows]
                yield ask(self.base, part, base.rows(range(k, k + len(part))))


def _settled(part: nn.Module) -> None:
    """InputError for a layer whose output is not a function of its row alone, or cannot be replayed."""
    if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
        raise InputError(
            "the base classifier normalises over a batch, so that draws would depend on one another: "
            "call .eval()"
        )
    # recurrent layers and attention have a share of their own to drop
    share = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0.0)
    if part.training and isinstance(share, float) and share > 0:
        raise InputError("the base classifier drops units at random, which no seed repeats: call .eval()")


def ask(base: nn.Module, noisy: Tensor, noise: NoiseSource) -> Tensor:
    """Scores of the base for noisy objects. Shape: (n, ...) -> (n, C).

    Raises InputError for scores of another shape, or that are not finite.
    """
    scores = base(noisy, noise=noise) if takes(base, "noise") else base(noisy)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(noisy):
        raise InputError("a base classifier returns one row of scores for each noisy object")
    return finite(scores)


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
            check(step, self.law.norm, self.representation.name)

    def object(self, waveform: Tensor) -> Tensor:
        """What gets the noise. Shape: (T,) -> (...)."""
        if waveform.ndim != 1 or not len(waveform) or not bool(torch.isfinite(waveform).all()):
            raise InputError("smoothing takes one clip (time,) of finite samples")
        with torch.inference_mode():
            for step in self.before:
                waveform = step(waveform)
            return self.representation.encode(waveform[None])[0]

    def sampler(self, waveform: Tensor, *, seed: int, item: int = 0, rows: int = 64) -> Sampler:
        return Sampler(self.base, self.law, self.object(waveform), seed, item, Rows(rows))

    def certify(
        self, waveform: Tensor, how: Procedure | None = None, *, seed: int, item: int = 0
    ) -> Certificate:
        """A certificate for one clip; its chance to be wrong is over `seed`, which nobody may choose for it.

        Shape: (T,). Raises InputError for anything else, or samples that are not finite.
        """
        found = (how or Certify())(self.sampler(waveform, seed=seed, item=item), self.law)
        return found._replace(of=f"{self.representation.name}, {self.law.norm}, {self.representation.unit}")

    def predict(
        self,
        waveform: Tensor,
        how: Predict | Procedure | None = None,
        *,
        seed: int | None = None,
        item: int = 0,
    ) -> int | None:
        """The answer for one clip, None where it cannot be told. Shape: (T,).

        Args:
            how: what decides, which must be what is certified. PREDICT, the default, asks who has most votes.
                Where the mean probability, embedding or cosine is certified, it is the procedure that
                certifies, with as few draws as an answer may take.
            seed: of the draws, to replay an answer; None takes one that nobody knows. Its chance to be wrong
                is over draws that the attacker does not know: whoever knows the seed may find a change well
                within a certified radius that turns just these.
        """
        chosen = secrets.randbits(63) if seed is None else seed
        sampler = self.sampler(waveform, seed=chosen, item=item)
        if how is None or isinstance(how, Predict):
            return (how or Predict())(sampler)
        return how(sampler, self.law).label
