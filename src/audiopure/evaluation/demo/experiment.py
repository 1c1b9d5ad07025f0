"""The demo's experiment: clips attacked without a defence, behind noise alone, and behind a purifier."""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

import audiopure
from audiopure import hub, metrics
from audiopure.api import load_purifier, load_recogniser
from audiopure.attacks import PAPER_BUDGETS, Pgd, predict
from audiopure.attacks.objective import Objective
from audiopure.defended import Defended, defend
from audiopure.evaluation.clips import Batch, Clips, batches, load_clips
from audiopure.evaluation.demo.results import (
    COLUMNS,
    ClipRecord,
    DataFacts,
    DemoResults,
    ModelFacts,
    Row,
    cell,
)
from audiopure.noise import SeededNoise

BATCH = 16  # clips; larger batches leave the processor's caches
Key = Literal["none", "noise", "purified"]


class DemoConfig(BaseModel):
    """Settings of a demo run.

    Attributes:
        data: folder of labelled audio; None for the clips that ship.
        clips: how many, equal over labels.
        steps, eot: of PGD against the randomised rows; the undefended recogniser, which has no randomness to
            average over, gets steps * eot steps, as many gradients.
        passes: fresh passes that score each clip of a randomised row.
        seed: of the choice of clips and of all noise.
        examples: clips on the page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path | None = None
    clips: int = Field(default=30, ge=1)
    steps: int = Field(default=15, ge=1)
    eot: int = Field(default=2, ge=1)
    passes: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**64)
    recogniser: str = "digits"
    purifier: str = "small"
    n_star: float = Field(default=3, gt=0)
    examples: int = Field(default=8, ge=0)

    @property
    def command(self) -> str:
        """The shell command that repeats the run."""
        words = ["audiopure", "demo"]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default or name == "seed":
                text = f"{value:g}" if isinstance(value, float) else str(value)
                words += [f"--{name.replace('_', '-')}", text]
        return shlex.join(words)


@dataclass(frozen=True)
class System:
    """One row of the table."""

    key: Key
    title: str
    model: nn.Module
    attacks: dict[str, Pgd]
    passes: int


@dataclass(frozen=True)
class Heard:
    """One clip in one condition: the audio (T,) and the probabilities (passes, C) of the labels heard."""

    audio: Tensor
    probabilities: Tensor


@dataclass
class Demo:
    """A prepared run. `plan` says what it will cost, `run` runs it.

    Attributes:
        heard: (row, column, clip) -> what was played and heard, filled by `run`.
    """

    config: DemoConfig
    clips: Clips
    recogniser: nn.Module
    purifier: audiopure.Purifier
    systems: list[System]
    heard: dict[tuple[str, str, int], Heard]
    started: float

    @classmethod
    def prepare(cls, config: DemoConfig) -> Demo:
        """Load models and clips. Raises InputError or WeightsError for what cannot be used."""
        started = time.monotonic()
        recogniser = load_recogniser(config.recogniser)
        purifier = load_purifier(config.purifier, n_star=config.n_star)
        clips = load_clips(config.data, recogniser, config.clips, config.seed)
        systems = _systems(config, recogniser, purifier)
        return cls(config, clips, recogniser, purifier, systems, {}, started)

    def plan(self) -> dict[str, float]:
        """Seconds that each row will take, from timing one gradient of one batch. Keys: those of the rows."""
        batch = next(self._batches())
        seconds = {}
        for system in self.systems:
            objective = Objective(system.model, batch.labels, lengths=batch.lengths, max_rows=BATCH)
            noise = SeededNoise(0, tuple(batch.items))
            objective.gradient(batch.waveform, noise, 1)  # the first call also allocates
            begin = time.perf_counter()
            objective.gradient(batch.waveform, noise, 1)
            seconds[system.key] = (time.perf_counter() - begin) / len(batch.index) * self._gradients(system)
        return seconds

    def _gradients(self, system: System) -> float:
        """Gradients the row costs, with a forward pass counted as the 0.4 gradients that it takes."""
        attacks = sum(a.eot * (a.steps + 0.4 * 3) for a in system.attacks.values())
        return len(self.clips.targets) * (attacks + 0.4 * system.passes * len(COLUMNS))

    def run(self, progress: Callable[[Key, float], None] = lambda key, share: None) -> DemoResults:
        """Attack and score every clip. `progress` gets a row's key and the share of it that was just done."""
        total = len(self.clips.targets)
        for number, system in enumerate(self.systems):
            noise = SeededNoise(self.config.seed).fresh(number)
            steps = sum(attack.steps for attack in system.attacks.values())
            for batch in self._batches():
                share = len(batch.index) / total / steps

                def step(system: System = system, share: float = share) -> None:
                    progress(system.key, share)

                self._attack(system, batch, noise.for_items(batch.items), step)
        return self._results()

    def _batches(self):
        rate: int = self.recogniser.sample_rate  # type: ignore[assignment]
        return batches(self.clips, BATCH, at_least=rate)

    def _attack(self, system: System, batch: Batch, noise: SeededNoise, step: Callable[[], None]) -> None:
        audio = {"clean": batch.waveform}
        for number, (norm, attack) in enumerate(system.attacks.items(), start=1):
            source = noise.fresh(number)
            result = attack(
                system.model, batch.waveform, batch.labels, noise=source, lengths=batch.lengths, progress=step
            )
            audio[norm] = result.adversarial
        for number, (column, waveform) in enumerate(audio.items()):
            # numbers that no attack uses: the score is on noise the attack has not seen
            source = noise.fresh(100 + number)
            heard = predict(
                system.model,
                waveform,
                noise=source,
                passes=system.passes,
                lengths=batch.lengths,
                max_rows=BATCH,
            )
            for row, index in enumerate(batch.index):
                length = len(self.clips.waveforms[index])
                self.heard[system.key, column, index] = Heard(waveform[row, :length], heard[row])

    def right(self, key: str, column: str, index: int) -> int:
        """Passes of a row that recognised a clip."""
        answers = self.heard[key, column, index].probabilities.argmax(-1)
        return int((answers == self.clips.targets[index]).sum())

    def purified(self, column: str, index: int) -> tuple[Tensor, Tensor]:
        """What the recogniser gets to hear in the first scored pass of the purified row, and its answer.

        Shape: (T,), (C,).
        """
        (number, system), *_ = [(n, s) for n, s in enumerate(self.systems) if s.key == "purified"]
        noise = SeededNoise(self.config.seed).fresh(number).for_items([self.clips.items[index]])
        source = noise.fresh(100 + COLUMNS.index(column)).fresh(0)
        heard = self.heard["purified", column, index]
        assert isinstance(system.model, Defended)
        with torch.no_grad():
            audio = system.model.purify(heard.audio[None], noise=source)[0]
        return audio, heard.probabilities[0]

    def _results(self) -> DemoResults:
        clips, config = self.clips, self.config
        indices = range(len(clips.targets))
        right = {
            system.key: {c: [self.right(system.key, c, i) for i in indices] for c in COLUMNS}
            for system in self.systems
        }
        rows = [
            Row(
                key=system.key,
                title=system.title,
                attacks={norm: repr(attack) for norm, attack in system.attacks.items()},
                passes=system.passes,
                cells={c: cell(right[system.key][c], system.passes) for c in COLUMNS},
            )
            for system in self.systems
        ]
        records = [self._record(index, right) for index in indices]
        return DemoResults(
            schema_="audiopure-demo-1",
            command=config.command,
            versions={
                "audiopure": audiopure.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "platform": f"{platform.system()} {platform.machine()}",
            },
            seconds=round(time.monotonic() - self.started, 1),
            threads=torch.get_num_threads(),
            settings=config.model_dump(mode="json"),
            data=DataFacts(
                name="shipped clips" if config.data is None else clips.dataset.name,
                split=clips.split,
                clips=len(clips.targets),
                of=clips.of,
                note=clips.note,
            ),
            models={"recogniser": _facts(config.recogniser), "purifier": _facts(config.purifier)},
            budgets=PAPER_BUDGETS,
            rows=rows,
            clips=records,
        )

    def _record(self, index: int, right: dict[Any, dict[str, list[int]]]) -> ClipRecord:
        clip, clean = self.clips.dataset[index], self.clips.waveforms[index]
        snr = {
            s.key: {
                norm: round(float(metrics.snr(self.heard[s.key, norm, index].audio, clean)), 2)
                for norm in PAPER_BUDGETS
            }
            for s in self.systems
        }
        return ClipRecord(
            id=clip.id,
            label=clip.label,
            seconds=round(clip.seconds, 4),
            right={
                key: {c: counts[index] for c, counts in columns.items()} for key, columns in right.items()
            },
            snr=snr,
        )


def _systems(config: DemoConfig, recogniser: nn.Module, purifier: audiopure.Purifier) -> list[System]:
    def attacks(steps: int, eot: int) -> dict[str, Pgd]:
        return {norm: Pgd.strong(norm, steps, eot, max_rows=BATCH) for norm in PAPER_BUDGETS}

    adaptive = attacks(config.steps, config.eot)
    level = f"n*={config.n_star:g}"
    noise = defend(recogniser, purifier.replace(reverse=False)).eval()
    return [
        System("none", "none", recogniser, attacks(config.steps * config.eot, 1), 1),
        System("noise", f"noise only, {level}", noise, adaptive, config.passes),
        System(
            "purified", f"purified, {level}", defend(recogniser, purifier).eval(), adaptive, config.passes
        ),
    ]


def _facts(name: str) -> ModelFacts:
    return ModelFacts(name=name, sha256=hub.digest(name), card=hub.describe(name)["card"])
