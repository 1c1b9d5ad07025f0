"""The moves of the Square attack (Andriushchenko et al. 2020) on recordings: segments instead of squares.

A move changes one segment of a clip, at a random place. Literally a square becomes a segment of constant sign
(L-inf), or a bump beside its negative (L2). Most of such a segment's energy lies at the lowest frequencies,
where recognisers hear little; with `tones` it sounds at a random pitch, equally likely in every octave, and
the attack needs a small part of the queries (see `Square`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from audiopure.attacks.ball import L2, Ball, unit
from audiopure.noise import NoiseSource

HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # steps of 10 000 after which the share is halved
STRIPES = 100  # blocks of one sign at the start, in the length of the batch
LOWEST, HIGHEST = 0.01, 0.5  # pitches in cycles a sample: at 16 kHz from 160 Hz to 8 kHz


def share(step: int, steps: int, start: float) -> float:
    """Share of a clip that step `step` of `steps` changes: AutoAttack's schedule, stretched to `steps`."""
    reached = int(step / steps * 10_000)
    return start / 2 ** sum(reached > mark for mark in HALVED)


def stripes(ball: Ball, noise: NoiseSource) -> Tensor:
    """A start on the border of the ball: blocks of random sign, the stripes of the source. Shape: (B, T)."""
    batch, length = ball.clean.shape
    width = -(-length // STRIPES)
    z = noise.normal((batch, -(-length // width)), draw=0, device=ball.clean.device, dtype=ball.clean.dtype)
    signs = _sign(z).repeat_interleave(width, dim=1)[:, :length]
    return ball.project(ball.clean + ball.eps * ball.ascent(signs))


def propose(ball: Ball, x: Tensor, share: float, noise: NoiseSource, tones: bool) -> Tensor:
    """x with one segment of each clip, `share` of its length, changed within the budget.

    Shape: (B, T) -> (B, T).
    """
    u = torch.special.ndtr(noise.normal((len(x), 5), draw=0, device=x.device, dtype=torch.float64))
    if isinstance(ball, L2):
        return _bump(ball, x, share, u, tones)
    segment = _segment(ball, share, 1, u[:, :1])
    wave = _sign(u[:, 1:2].to(x.dtype) - 0.5).expand_as(x)
    if tones:
        wave = wave * _sign(_tone(segment.at, u[:, 2:3], u[:, 3:4]))
    moved = ball.project(torch.where(segment.inside, ball.clean + ball.eps * wave, x))
    other = ball.project(torch.where(segment.inside, ball.clean - ball.eps * wave, x))
    # as in the source, a query is not spent on what is there already
    return torch.where((moved == x).all(1, keepdim=True), other, moved)


def _bump(ball: L2, x: Tensor, share: float, u: Tensor, tones: bool) -> Tensor:
    """The L2 move (algorithm 3 of the source).

    A bump is added to a segment's direction, and the segment takes the energy of a second segment, which
    falls silent, and whatever the budget has left.
    """
    first, second = (_segment(ball, share, 3, u[:, k : k + 1]) for k in (0, 1))
    change = x - ball.clean
    if tones:
        shape = _hill(first.at, first.size) * _tone(first.at, u[:, 2:3], u[:, 3:4])
    else:
        half = (first.size / 2).floor()
        shape = _peak(first.at, half) - _peak(first.at - half, first.size - half)
    kept = unit(change * first.inside)
    new = unit(_sign(u[:, 4:5].to(x.dtype) - 0.5) * unit(shape) + kept)
    energy = (change * (first.inside | second.inside)).square().sum(1, keepdim=True)
    spare = (ball.eps**2 - change.square().sum(1, keepdim=True)).clamp(min=0)
    change = torch.where(first.inside, new * (energy + spare).sqrt(), change * ~second.inside)
    return ball.project(ball.clean + ball.eps * ball.ascent(change))


class _Segment(NamedTuple):
    """Positions counted from the segment's first sample (B, T), which are in it (B, T), its length (B, 1)."""

    at: Tensor
    inside: Tensor
    size: Tensor


def _segment(ball: Ball, share: float, least: int, place: Tensor) -> _Segment:
    """A segment of each clip of at least `least` samples, at a place in [0, 1] (B, 1) of where it fits."""
    clean = ball.clean
    ends = torch.full_like(place, clean.shape[1]) if ball.mask is None else ball.mask.sum(1, keepdim=True)
    size = (share * ends).round().clamp(min=least).minimum(ends)
    begin = (place * (ends - size + 1)).floor().minimum(ends - size)
    at = torch.arange(clean.shape[1], device=clean.device, dtype=clean.dtype) - begin.to(clean.dtype)
    size = size.to(clean.dtype)
    return _Segment(at, (at >= 0) & (at < size), size)


def _tone(at: Tensor, pitch: Tensor, phase: Tensor) -> Tensor:
    """A sine of a pitch in [0, 1] of the octaves and a phase in [0, 1] of the period, (B, 1) each."""
    cycles = LOWEST * (HIGHEST / LOWEST) ** pitch
    return torch.sin(2 * torch.pi * (cycles.to(at.dtype) * at + phase.to(at.dtype)))


def _hill(at: Tensor, size: Tensor) -> Tensor:
    """A smooth bump (Hann window) of `size` samples. Shape: (B, T), (B, 1) -> (B, T)."""
    inside = (at >= 0) & (at < size)
    return inside * torch.sin(torch.pi * (at + 0.5) / size).square()


def _peak(at: Tensor, size: Tensor) -> Tensor:
    """The source's bump (eq. 2) in one dimension.

    A sum over k of intervals of 2k+1 samples and height 1/(k+1)^2, which share their centre and are cut to
    `size` samples. Shape: (B, T), (B, 1) -> (B, T).
    """
    centre = (size / 2).floor()
    heights = torch.arange(1, at.shape[1] + 2, device=at.device, dtype=at.dtype) ** -2
    summed = torch.cat([heights.new_zeros(1), heights.cumsum(0)])
    away = (at - centre).abs().minimum(centre).long()
    inside = (at >= 0) & (at < size)
    return inside * (summed[(centre + 1).long()] - summed[away])


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
