"""The record of a certification: the schema of `certificates.json`, version 1.

    schema      "audiopure-certificates-1"; changes when a field changes its meaning
    command     the shell command that repeats it, or the Python call for a model without a name
    versions    audiopure, python, torch
    machine     device, threads, workers
    settings    all settings, see `settings.CertifySettings`
    data        name, split, clips, of, note, shard, as on a report card
    weights     name of a weights file -> first 16 hex digits of its SHA-256
    object      what gets the noise, with its sample rate where it is a waveform; unit: of its numbers
    norm        of every radius
    confidence  1 - alpha, of each clip's certificate by itself
    seconds     of work, summed over processes; draws: through the base classifier
    clips       one for each clip, see `ClipCertificate`
    curve       share of clips that are right and certified, by radius

A clip is right if its certified answer is its label; one that abstains is never right.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from audiopure.evaluation.card import Data, Proportion
from audiopure.evaluation.scoring import proportion

SCHEMA = "audiopure-certificates-1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Explained(_Part):
    """A waveform radius in other words, see `certification.units.Meaning`."""

    snr: float
    rms: float
    octaves: dict[int, float]
    inaudible: float | None
    noticeable: float | None
    heard: float | None


class ClipCertificate(_Part):
    """One clip's certificate, see `certification.procedures.Certificate`.

    Attributes:
        label: the clip's.
        answer: the smoothed classifier's, None where it abstains; guess: what it would be.
        radius: in `norm`; implied: the radii that follow, in other norms and of the waveform ("waveform L2").
        p, q: bounds of the answer's share of votes, and of any other's.
        n: draws; counts: their votes by label.
        explained: where the waveform is certified, of its L2 radius, in whichever norm that is, with the
            zeros that pad it.
    """

    id: str
    label: str
    answer: str | None
    guess: str
    radius: float
    implied: dict[str, float]
    p: float
    q: float
    n: int
    counts: dict[str, int]
    explained: Explained | None
    seconds: float

    @property
    def right(self) -> bool:
        return self.answer == self.label


class CurvePoint(_Part):
    radius: float
    certified: Proportion


class Certificates(_Part):
    schema_: str = SCHEMA
    command: str
    versions: dict[str, str]
    machine: dict[str, Any]
    settings: dict[str, Any]
    data: Data
    weights: dict[str, str]
    labels: list[str]
    object: str
    unit: str
    norm: str
    confidence: float
    seconds: float
    draws: int
    clips: list[ClipCertificate]
    curve: list[CurvePoint]

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_inf_nan="strings",
        alias_generator=lambda name: name.rstrip("_"),
        populate_by_name=True,
    )

    def certified(self, radius: float) -> Proportion:
        """Certified accuracy: clips that are right with at least this radius; at 0 all that are right."""
        return certified(self.clips, radius)

    @property
    def abstained(self) -> Proportion:
        return proportion(sum(clip.answer is None for clip in self.clips), len(self.clips))

    @property
    def mean_radius(self) -> float:
        """Average certified radius: of wrong and abstaining clips 0 (Zhai et al. 2020)."""
        return sum(clip.radius for clip in self.clips if clip.right) / len(self.clips)


def certified(clips: list[ClipCertificate], radius: float) -> Proportion:
    return proportion(sum(clip.right and clip.radius >= radius for clip in clips), len(clips))


def curve(clips: list[ClipCertificate]) -> list[CurvePoint]:
    """At about fifty round radii, the last just beyond the largest of a clip that is right."""
    top = max((clip.radius for clip in clips if clip.right and math.isfinite(clip.radius)), default=0.0)
    step = round_step(top / 50)
    count = math.floor(top / step) + 2 if top > 0 else 1
    radii = [round(step * k, 12) for k in range(count)]
    return [CurvePoint(radius=radius, certified=certified(clips, radius)) for radius in radii]


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`; 1 for 0."""
    if least <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
