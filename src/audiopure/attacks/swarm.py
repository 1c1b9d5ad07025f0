"""Particle swarms in a box (Kennedy & Eberhart 1995), one for each clip of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from audiopure.attacks.ball import Ball
from audiopure.noise import SeededNoise


class Swarm:
    """Particles `x` (P, B, T) in the box of `ball`, and the `best` point of each with its `loss` (P, B).

    A move is `v <- inertia v + own r1 (own best - x) + social r2 (swarm's best - x)`, then `x <- x + v`, with
    r1 and r2 uniform in [0, 1) for each sample; v is cut to the width of the box, x to the box.
    """

    def __init__(self, ball: Ball, particles: int):
        self.ball = ball
        self.low, self.high = (ball.project(ball.clean + way * ball.eps) for way in (-1, 1))
        self.x = ball.clean.repeat(particles, 1, 1)
        self.velocity = torch.zeros_like(self.x)
        self.best = self.x.clone()
        self.loss = self.x.new_full(self.x.shape[:2], -torch.inf)

    def scatter(self, rows: Tensor, noise: SeededNoise, *, keep: bool) -> None:
        """Start some clips' particles anew, anywhere; `keep`: the first at the best point."""
        low, width = self.low[rows], (self.high - self.low)[rows]
        leader, highest = self.leader(rows), self.loss[:, rows].amax(0)
        x = self.ball.rows(rows).project(low + width * self._uniform(noise.fresh(0), rows))
        loss = torch.full_like(self.loss[:, rows], -torch.inf)
        if keep:
            x[0], loss[0] = leader, highest
        self.x[:, rows], self.best[:, rows], self.loss[:, rows] = x, x, loss
        self.velocity[:, rows] = width * (2 * self._uniform(noise.fresh(1), rows) - 1)

    def note(self, rows: Tensor, loss: Tensor) -> None:
        """Remember the places that are better than any of their particle's before. Shape: loss (P, k)."""
        better = loss > self.loss[:, rows]
        self.best[:, rows] = torch.where(better[..., None], self.x[:, rows], self.best[:, rows])
        self.loss[:, rows] = torch.where(better, loss, self.loss[:, rows])

    def leader(self, rows: Tensor) -> Tensor:
        """The best point of each swarm. Shape: (k,) -> (k, T)."""
        return self.best[self.loss[:, rows].argmax(0), rows]

    def move(self, rows: Tensor, noise: SeededNoise, weights: tuple[float, float, float]) -> None:
        """Move some clips' particles; `weights` are inertia, own and social."""
        inertia, own, social = weights
        x, width = self.x[:, rows], (self.high - self.low)[rows]
        r1, r2 = (self._uniform(noise.fresh(number), rows) for number in (0, 1))
        velocity = inertia * self.velocity[:, rows] + own * r1 * (self.best[:, rows] - x)
        velocity = (velocity + social * r2 * (self.leader(rows) - x)).maximum(-width).minimum(width)
        self.velocity[:, rows] = velocity
        self.x[:, rows] = self.ball.rows(rows).project(x + velocity)

    def _uniform(self, noise: SeededNoise, rows: Tensor) -> Tensor:
        """Independent values in [0, 1) for each particle. Shape: (P, k, T)."""
        shape = (len(rows), self.x.shape[-1])
        draws = range(len(self.x))
        z = [noise.normal(shape, draw=k, device=self.x.device, dtype=self.x.dtype) for k in draws]
        return torch.special.ndtr(torch.stack(z))
