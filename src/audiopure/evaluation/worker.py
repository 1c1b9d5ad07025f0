"""One batch of clips against one row: attack, score, keep the audio, write the outcomes down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiopure import audio
from audiopure.attacks import Attack, AttackResult, predict
from audiopure.evaluation.card import CLEAN
from audiopure.evaluation.clips import Batch, Clips, item_of
from audiopure.evaluation.ledger import Ledger, Outcome, Table, done
from audiopure.evaluation.lineup import Contender
from audiopure.evaluation.plan import PlannedCondition
from audiopure.evaluation.quality import distances, masking_of
from audiopure.evaluation.stages import Context
from audiopure.noise import SeededNoise
from audiopure.psychoacoustics import Masking

ATTACKING, SCORING = 0, 1  # numbers of noise: a score is on noise that the attack has not seen
# clips times draws that go through a model at once: more leave a CPU's caches, fewer leave a GPU idle
ROWS = {"cpu": 16}
MANY_ROWS = 256

Tick = Callable[[str, str, int], None]  # told row, condition, and of how many clips it has just been done


@dataclass(frozen=True)
class Worker:
    """What attacks need, the same in every process.

    Attributes:
        maskings: of clips that have been needed, by their index.
        folder: of the report; audio goes to `audio/ROW/CONDITION/CLIP.flac` in it.
        device: of models and attacks.
    """

    clips: Clips
    contenders: Sequence[Contender]
    context: Context
    seed: int
    folder: Path
    sample_rate: int
    device: torch.device
    maskings: dict[int, Masking | None] = field(default_factory=dict, init=False)

    @property
    def rows(self) -> int:
        return ROWS.get(self.device.type, MANY_ROWS)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "outcomes.jsonl")

    def run(self, row: int, batch: Batch, before: Table, tick: Tick) -> None:
        """All conditions of a row on a batch that `before` does not hold."""
        contender = self.contenders[row]
        planned, table = contender.planned, dict(before)
        for condition in planned.conditions:
            known = table.get((planned.key, condition.key), {})
            here = [i for i in batch.index if i < condition.clips]
            ids, targets = self.clips.ids, self.clips.targets
            chosen = [i for i in here if planned.meets(condition, ids[i], targets[i], table)]
            # of a write that a kill cut off some are known; the batch runs anew as it was, to the last bit
            if any(ids[i] not in known for i in chosen):
                outcomes = self._measure(contender, condition, batch.rows(chosen))
                self.ledger.append(outcomes)
                table.update(done([*outcomes, *known.values()]))
            tick(planned.key, condition.key, sum(ids[i] not in known for i in here))

    def _measure(self, contender: Contender, condition: PlannedCondition, batch: Batch) -> list[Outcome]:
        started = time.perf_counter()
        row = contender.planned
        batch = batch.to(self.device)
        noise = SeededNoise(self.seed).fresh(item_of(f"{row.key}/{condition.key}")).for_items(batch.items)
        result = self._attacked(contender, condition.key, batch, noise.fresh(ATTACKING))
        heard = batch.waveform if result is None else result.adversarial
        answers = predict(
            contender.judge.to(self.device),
            heard,
            noise=noise.fresh(SCORING),
            passes=row.passes,
            lengths=batch.lengths,
            max_rows=self.rows,
        ).argmax(-1)
        seconds = (time.perf_counter() - started) / len(batch.index)
        audio_folder = self.folder / "audio" / row.key / condition.key
        outcomes = []
        for k, index in enumerate(batch.index):
            found: dict[str, Any] = {
                "loss": None,
                "survived": [],
                "never": None,
                "queries": 0,
                "distances": {},
            }
            if result is None:
                self._keep(index, self.clips.waveforms[index], audio_folder)
            else:
                found = self._found(index, k, result, audio_folder)
            outcomes.append(
                Outcome(
                    row=row.key,
                    condition=condition.key,
                    clip=self.clips.ids[index],
                    answers=answers[k].tolist(),
                    seconds=round(seconds, 4),
                    **found,
                )
            )
        return outcomes

    def _attacked(
        self, contender: Contender, key: str, batch: Batch, noise: SeededNoise
    ) -> AttackResult | None:
        if key == CLEAN:
            return None
        build = contender.attacks[key]
        attack = build if isinstance(build, Attack) else build(self.context)
        model = contender.model.to(self.device)
        return _sized(attack, self.rows)(
            model, batch.waveform, batch.labels, noise=noise, lengths=batch.lengths
        )

    def _masking(self, index: int) -> Masking | None:
        if index not in self.maskings:
            self.maskings[index] = masking_of(self.clips.waveforms[index], self.sample_rate)
        return self.maskings[index]

    def _keep(self, index: int, waveform: Tensor, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        audio.write(folder / f"{file_name(self.clips.ids[index])}.flac", waveform, self.sample_rate)

    def _found(self, index: int, k: int, result: AttackResult, folder: Path) -> dict[str, Any]:
        """What an attack did to a clip; the audio goes to the disk before the outcome does."""
        clean = self.clips.waveforms[index]
        heard = result.adversarial[k, : len(clean)].cpu()
        self._keep(index, heard, folder)
        shares = result.survived[:, :, k]
        return {
            "loss": float(result.loss[k]),
            "survived": [round(v, 4) for v in shares[shares[:, -1].argmin()].tolist()],
            "never": bool((shares == 1).all()),
            "queries": int(result.queries[k]),
            "distances": distances(clean, heard, self.sample_rate, self._masking(index)),
        }


def _sized(attack: Attack, rows: int) -> Attack:
    """The attack with another `max_rows`, which changes memory and speed only."""
    changes: dict[str, Any] = {}
    for part in fields(attack):  # type: ignore[arg-type]
        value = getattr(attack, part.name)
        if part.name == "max_rows":
            changes["max_rows"] = rows
        elif isinstance(value, Attack):
            changes[part.name] = _sized(value, rows)
    return replace(attack, **changes) if changes else attack  # type: ignore[type-var]


def file_name(clip: str) -> str:
    """A clip's identity as a file name, different for different clips."""
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in clip)
    return plain if plain == clip else f"{plain}-{item_of(clip) % 16**6:06x}"
