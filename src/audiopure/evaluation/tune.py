"""The noise level for a model and its data: as much as a stated loss of clean accuracy allows."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

import audiopure
from audiopure.attacks import Pgd, score
from audiopure.attacks.objective import Objective
from audiopure.attacks.routes import with_purifiers
from audiopure.errors import InputError
from audiopure.evaluation.card import Data, Proportion
from audiopure.evaluation.clips import Clips, batches, load_clips
from audiopure.evaluation.compare import paired_interval
from audiopure.evaluation.scoring import proportion
from audiopure.evaluation.tune_results import Level, Tuning
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.systems import System, load_system

BATCH = 16  # clips; larger batches leave the processor's caches
PROBE = 4  # clips on which the cost is timed
# a level is chosen by these clips, so they should not be those on which the choice is then reported
SPLITS = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What to tune.

    Attributes:
        system: with a purifier, as `load_system` takes it.
        data: folder of labelled audio or name of a dataset; its validation split, else its test split.
        loss: of clean accuracy that is allowed, as a share in [0, 1].
        levels: n* to try, each positive.
        clips: at most so many, equal over labels; None for all.
        passes: fresh passes of each clip.
        attack: None, or the attack by whose success levels within the loss are compared.
        attack_clips: the first so many clips are attacked.
        seed: of the choice of clips and all noise.

    Raises InputError for values out of range.
    """

    system: str
    data: str
    loss: float
    levels: tuple[float, ...] = (1, 2, 3, 5, 7, 10)
    clips: int | None = 200
    passes: int = 5
    attack: Pgd | None = None
    attack_clips: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.loss <= 1:
            raise InputError(f"a loss of accuracy lies between 0 and 100 points, not at {100 * self.loss:g}")
        if not self.levels or min(self.levels) <= 0:
            raise InputError("levels n* are positive; the undefended model is always measured beside them")
        if min(self.passes, self.attack_clips, 1 if self.clips is None else self.clips) < 1:
            raise InputError("clips and passes must be at least 1")


def short_pgd(norm: Literal["linf", "l2"], eps: float | None = None) -> Pgd:
    """A look at robustness in 75 gradients a clip: enough to compare levels, not to report.

    By default at the paper's budget. Raises InputError for one that is not positive.
    """
    if eps is not None and not 0 < eps < math.inf:
        raise InputError(f"a budget must be positive and finite, got {eps:g}")
    return Pgd.strong(norm, steps=15, eot=5, eps=eps, max_rows=BATCH)


class Tune:
    """A prepared run: `plan` says what it will cost, `run` runs it.

    Raises InputError for a system without a purifier, a level that its sampler cannot do, or data that have
    no clip with a label of the system's.
    """

    def __init__(self, config: TuneConfig, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)
        self.system: System = load_system(config.system)
        if not any(isinstance(module, Purifier) for module in self.system.model.modules()):
            raise InputError(
                f"{config.system} has no purifier to tune: write one before it, as in small+digits"
            )
        self.system.model.to(self.device)
        self.models = {n: _at(self.system.model, n) for n in sorted(set(config.levels))}
        count = config.clips
        self.clips: Clips = load_clips(config.data, self.system.undefended, count, config.seed, SPLITS)

    def plan(self) -> dict[float, float]:
        """n* -> seconds that its measurement will take, from timing a few clips."""
        some = next(self._batches(PROBE))
        share = len(self.clips.targets) / len(some.index)
        seconds = {}
        for n, model in self.models.items():
            objective = Objective(model, some.labels, lengths=some.lengths, max_rows=BATCH)
            forward = _timed(lambda objective=objective: objective.measure(some.waveform, SeededNoise(0), 1))
            seconds[n] = forward * share * self.config.passes
            if self.config.attack is not None:
                gradient = _timed(lambda o=objective: o.gradient(some.waveform, SeededNoise(0), 1))
                spent, judged = self.config.attack.cost
                part = min(self.config.attack_clips, len(self.clips.targets)) / len(some.index)
                seconds[n] += part * (spent * gradient + (judged + self.config.passes) * forward)
        return seconds

    def run(self, progress: Callable[[float, float], None] = lambda n_star, share: None) -> Tuning:
        """Measure every level. `progress` gets the level and the share of it that was just done."""
        began, config, attack = time.monotonic(), self.config, self.config.attack
        bare = self._right(self.system.undefended, SeededNoise(config.seed), lambda share: None, passes=1)
        levels = []
        for number, (n, model) in enumerate(self.models.items(), start=1):

            def step(share: float, n: float = n) -> None:
                progress(n, share if attack is None else share / 2)

            noise = SeededNoise(config.seed).fresh(number)
            right = self._right(model, noise.fresh(0), step, passes=config.passes)
            attacked = None if attack is None else self._attacked(model, attack, noise, step)
            levels.append(self._level(n, bare, right, attacked))
        chosen = choose(levels, config.loss)
        return Tuning(
            schema_="audiopure-tune-1",
            versions={
                "audiopure": audiopure.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            system=config.system,
            weights=dict(self.system.weights),
            data=self._data(),
            passes=config.passes,
            stated=config.loss,
            attack=None if attack is None else repr(attack),
            undefended=proportion(sum(bare), len(bare)),
            levels=levels,
            recommended=None if chosen is None else chosen.n_star,
            spec=None if chosen is None else chosen.spec,
            seconds=round(time.monotonic() - began, 1),
        )

    def _level(
        self, n: float, bare: Sequence[float], right: Sequence[float], attacked: Proportion | None
    ) -> Level:
        lost = [b - r for b, r in zip(bare, right, strict=True)]
        low, high = paired_interval(lost)
        verdict = "yes" if high <= self.config.loss else "no" if low > self.config.loss else "open"
        return Level(
            n_star=n,
            spec=spec_at(self.config.system, n),
            clean=proportion(sum(right), len(right)),
            loss=sum(lost) / len(lost),
            low=low,
            high=high,
            verdict=verdict,
            attacked=attacked,
        )

    def _right(
        self, model: nn.Module, noise: SeededNoise, step: Callable[[float], None], *, passes: int
    ) -> list[float]:
        """Share of the passes that recognise each clip."""
        right = [0.0] * len(self.clips.targets)
        for batch in self._batches(BATCH):
            found = score(
                model,
                batch.waveform,
                batch.labels,
                noise=noise.for_items(batch.items),
                passes=passes,
                lengths=batch.lengths,
                max_rows=BATCH,
            )
            for index, share in zip(batch.index, found.double().mean(1).tolist(), strict=True):
                right[index] = share
            step(len(batch.index) / len(right))
        return right

    def _attacked(
        self, model: nn.Module, attack: Pgd, noise: SeededNoise, step: Callable[[float], None]
    ) -> Proportion:
        count = min(self.config.attack_clips, len(self.clips.targets))
        right = 0.0
        for batch in self._batches(BATCH):
            chosen = [index for index in batch.index if index < count]
            if not chosen:
                continue
            batch = batch.rows(chosen)
            source = noise.for_items(batch.items)
            share = len(chosen) / count / attack.steps
            found = attack(
                model,
                batch.waveform,
                batch.labels,
                noise=source.fresh(1),
                lengths=batch.lengths,
                progress=lambda share=share: step(share),
            )
            heard = score(
                model,
                found.adversarial,
                batch.labels,
                noise=source.fresh(2),
                passes=self.config.passes,
                lengths=batch.lengths,
                max_rows=BATCH,
            )
            right += float(heard.double().mean(1).sum())
        return proportion(right, count)

    def _batches(self, size: int):
        rate = self.system.sample_rate
        return (batch.to(self.device) for batch in batches(self.clips, size, at_least=rate))

    def _data(self) -> Data:
        clips = self.clips
        return Data(
            name=clips.dataset.name,
            split=clips.split,
            clips=len(clips.targets),
            of=clips.of,
            note=clips.note,
            shard=None,
        )


def choose(levels: Sequence[Level], stated: float) -> Level | None:
    """The level with the most noise, or the one that an attack finds most robust, within the stated loss."""

    def worth(level: Level) -> tuple[float, float]:
        return 0.0 if level.attacked is None else level.attacked.value, level.n_star

    within = [level for level in levels if level.loss <= stated + 1e-9]
    return max(within, key=worth, default=None)


def spec_at(spec: str, n_star: float) -> str:
    """A system's specification with every purifier at one n*: "small+digits" -> "small,n_star=5+digits"."""
    *defences, recogniser = spec.split("+")
    changed = []
    for defence in defences:
        words = [w.strip() for w in defence.split(",") if w.partition("=")[0].strip() != "n_star"]
        changed.append(",".join([words[0], f"n_star={n_star:g}", *words[1:]]))
    return "+".join([*changed, recogniser.strip()])


def _at(model: nn.Module, n_star: float) -> nn.Module:
    return with_purifiers(model, lambda purifier: purifier.replace(n_star=n_star)).eval()


def _timed(work: Callable[[], object]) -> float:
    work()  # the first call pays for what later ones reuse
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
