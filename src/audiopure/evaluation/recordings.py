"""Attacked recordings that the user already has, scored as they are: no attack adapts to the system."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from audiopure import audio
from audiopure.attacks import Attack, AttackResult
from audiopure.attacks.base import Cost
from audiopure.attacks.objective import Objective
from audiopure.errors import InputError
from audiopure.evaluation.clips import Clips, digest
from audiopure.evaluation.stages import Protocol, Stage
from audiopure.noise import SeededNoise

PASSES = 10
NOT_ADAPTIVE = (
    "Not adaptive: these recordings were not made against this system, so they say nothing about what an "
    "attacker who knows it can do."
)


@dataclass(frozen=True, kw_only=True)
class Recordings(Attack):
    """Gives back the attacked recording of each clip. Not an attack: nothing adapts to the model.

    Args:
        waveforms: number that names a clip to the noise source -> its attacked version (T,), as long as it.
        source: where they come from.
        digest: tells these recordings from others.
    """

    waveforms: Mapping[int, Tensor] = field(repr=False, compare=False)
    source: str
    digest: str
    norm: str = field(default="free", repr=False)
    eps: float = field(default=math.inf, repr=False)

    @property
    def budget(self) -> str:
        return "as recorded"

    @property
    def cost(self) -> Cost:
        return Cost(0, 1)

    def __call__(
        self,
        model: nn.Module,
        waveform: Tensor,
        labels: Tensor,
        *,
        noise: SeededNoise,
        lengths: Tensor | None = None,
        progress: Callable[[], None] | None = None,
    ) -> AttackResult:
        ball = self._ball(waveform, labels, lengths)
        x = waveform.clone()
        for row, item in zip(x, noise.items or (), strict=True):
            given = self.waveforms[item]
            row[: len(given)] = given.to(row)
        x = ball.project(x)
        found = Objective(model, labels, lengths=lengths).measure(x, noise.fresh(0), 1)
        if progress is not None:
            progress()
        spent = torch.ones_like(labels)
        return AttackResult(x, found.loss, found.loss[None, None], found.survived[None, None], spent)


def recorded(clips: Clips, folder: Path, sample_rate: int) -> Protocol:
    """The protocol that scores the recordings in `folder`.

    Raises InputError if there is none for a clip, or if it differs from the clip in length.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of attacked recordings.")
    base = clips.dataset.root
    waveforms = {}
    for clip, item, clean in zip(clips.dataset, clips.items, clips.waveforms, strict=True):
        path = folder / clip.path.relative_to(base)
        if not path.is_file():
            raise InputError(f"{path}: there is no attacked recording of this clip.")
        samples, rate = audio.read(path)
        mono = audio.resample(samples.mean(0), rate, sample_rate).clamp(-1, 1)
        if len(mono) != len(clean):
            raise InputError(
                f"{path}: has {len(mono)} samples at {sample_rate} Hz, its clean version {len(clean)}."
            )
        waveforms[item] = mono
    content = hashlib.sha256("".join(digest(given) for given in waveforms.values()).encode()).hexdigest()[:16]
    attack = Recordings(waveforms=waveforms, source=folder.name, digest=content)
    stage = Stage("recordings", "recordings as given", {"given": attack}, controls=True, note=NOT_ADAPTIVE)
    return Protocol("recordings", PASSES, (stage,), note=NOT_ADAPTIVE)
