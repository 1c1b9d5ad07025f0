"""DiffAttack (Kang et al. 2023): PGD that also drives the reverse process away from the forward one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from audiopure.attacks.objective import Objective
from audiopure.attacks.pgd import Pgd
from audiopure.attacks.routes import reroute, with_purifiers
from audiopure.diffusion.denoiser import Denoiser
from audiopure.diffusion.gradient import Gradient
from audiopure.diffusion.samplers import Step
from audiopure.errors import InputError
from audiopure.noise import NoiseSource
from audiopure.purifier import Purifier


@dataclass(frozen=True, kw_only=True)
class DiffAttack(Pgd):
    """PGD on the loss plus `deviation` times the deviated-reconstruction loss (Kang et al. 2023, eq. 8).

    That loss is a weighted sum, over the levels that the reverse process visits, of the distance between its
    state and the forward-diffused clip at the same level. Both are taken with their graphs, and the clip is
    diffused to every level with the same noise. It steers the steps only: iterates are judged by the loss
    alone.

    The distance is the mean squared difference over the variance of the forward noise, near 1 for a purifier
    that removes that noise, so `deviation` means the same for every level of it. The paper weights all levels
    alike; its released code, which this follows, weights the k-th reverse step of the r-th purification of a
    pass by (k + 1)^-1/2 (r + 1)^-1/4, counted from 0.

    Against the shipped defended recogniser the term does not help: at L-inf .004, with 15 steps of momentum
    .75 and 2 draws, 16 clips are heard right in 70 % of fresh passes with weight 0 and 1 alike, 82 % with 10
    and 91 % with 100. Three steps let the gradient of the loss through well enough.

    Args:
        deviation: weight of the term, lambda in the paper.

    Further settings are those of `Pgd`, here with the paper's 20 draws, but not its Auto-PGD. A `route` is
    applied to each reverse step by itself. Raises InputError, when called, for a model without a purifier, so
    it cannot be measured on an undefended recogniser; before one it is `Pgd`, but for the term.
    """

    eot: int = 20
    deviation: float = 1.0

    def climbed(self, objective: Objective) -> Objective:
        model, record = reroute(objective.model, self.route), Record()
        if not any(isinstance(module, Purifier) for module in model.modules()):
            raise InputError("DiffAttack follows the steps of a purifier, and the model holds none")
        return _Deviating(
            model=with_purifiers(model, lambda purifier: Watched(purifier, record)),
            labels=objective.labels,
            loss=objective.loss,
            targeted=objective.targeted,
            lengths=objective.lengths,
            max_rows=objective.max_rows,
            record=record,
            deviation=self.deviation,
        )


class Record:
    """How far the reverse processes of a forward pass stray from the forward-diffused clips."""

    def __init__(self) -> None:
        self.rounds = 0
        self.total: Tensor | None = None

    def add(self, distances: Sequence[Tensor]) -> None:
        """Note one purification: the distances after each of its steps, (B,) each."""
        for number, distance in enumerate(distances):
            part = (number + 1) ** -0.5 * (self.rounds + 1) ** -0.25 * distance.sum()
            self.total = part if self.total is None else self.total + part
        self.rounds += 1

    def take(self) -> Tensor | None:
        """The weighted sum over steps, purifications and rows since the last call; None without any."""
        total, self.total, self.rounds = self.total, None, 0
        return total


@dataclass(frozen=True)
class States(Gradient):
    """Runs another strategy step by step; `seen` holds the first state and that after each step."""

    inner: Gradient
    seen: list[Tensor] = field(default_factory=list, repr=False)

    def __call__(
        self,
        steps: Sequence[Step],
        denoiser: Denoiser,
        x: Tensor,
        noise: Sequence[Tensor | None],
        lengths: Tensor | None = None,
    ) -> Tensor:
        self.seen[:] = [x]
        for step, z in zip(steps, noise, strict=True):
            x = self.inner([step], denoiser, x, [z], lengths)
            self.seen.append(x)
        return x


class Watched(Purifier):
    """A purifier that shares another's denoiser and tells `record` how far its reverse process strays."""

    def __init__(self, purifier: Purifier, record: Record):
        states = States(purifier.gradient)
        super().__init__(
            purifier.denoiser,
            n_star=purifier.n_star,
            schedule=purifier.schedule,
            sampler=purifier.sampler,
            gradient=states,
            level=purifier.level,
            reverse=purifier.reverse,
            forward=purifier.forward_noise,
        )
        self.record, self.states = record, states
        self.train(purifier.training)

    def _diffuse(self, x: Tensor, lengths: Tensor | None, noise: NoiseSource, start: int) -> Tensor:
        out = super()._diffuse(x, lengths, noise, start)
        if self.steps:
            self.record.add(self._distances(x, lengths))
        return out

    def _distances(self, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """Mean squared distance of each reverse state over the forward noise's variance. Shape: (B,) each."""
        alpha_bar = self.sampler.start(self.schedule, self.n_star)
        variance = 1 - alpha_bar
        first, *states = self.states.seen
        drawn = ((first - math.sqrt(alpha_bar) * x) / math.sqrt(variance)).detach()
        inside = torch.ones_like(x[:1], dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        # a step's `scale` and `sigma` are those of the state it starts from; the last step reaches x itself
        levels = [(step.scale, step.scale * step.sigma) for step in self.steps[1:]] + [(1.0, 0.0)]
        return [
            ((state - scale * x - spread * drawn).square() * inside).sum(1) / inside.sum(1) / variance
            for state, (scale, spread) in zip(states, levels, strict=True)
        ]


@dataclass(frozen=True)
class _Deviating(Objective):
    """An objective whose gradients also follow `record`, as its model fills it."""

    record: Record = field(default_factory=Record)
    deviation: float = 1.0

    def steered(self, losses: Tensor) -> Tensor:
        strayed = self.record.take()
        return losses.sum() if strayed is None else losses.sum() + self.deviation * strayed
