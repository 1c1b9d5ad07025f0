"""One recording attacked: what the system hears before and after, and whether a file keeps the budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiopure import audio, metrics
from audiopure.attacks import Attack, predict
from audiopure.attacks.ball import STEP16
from audiopure.attacks.catalogue import build_attack, settings_of
from audiopure.attacks.objective import Objective, randomised
from audiopure.errors import InputError
from audiopure.evaluation.protocols import for_fixed
from audiopure.evaluation.quality import distances
from audiopure.noise import SeededNoise
from audiopure.systems import System, as_system

SHORTEST = 0.05  # seconds; no word and hardly a sound of one is shorter
ROWS_SECONDS = 64.0  # audio that goes through the model at once, which bounds memory for long recordings
STEPS, EOT = 40, 5  # of PGD, and of every attack on a randomised system, unless said otherwise
ATTACKING, CLEAN, ATTACKED = 1, 2, 3  # numbers of independent noise


@dataclass(frozen=True)
class Recording:
    """A file as the system hears it: mono, at its rate, in 16-bit samples.

    Attributes:
        waveform: (T,) in [-1, 1].
        note: what of the file had to be changed for that; None for nothing.
    """

    waveform: Tensor
    note: str | None


@dataclass(frozen=True)
class Goal:
    """What the attack wants. Attributes are indices of labels; `label` None is what the bare system hears."""

    label: int | None = None
    target: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What an attack did to one recording.

    Attributes:
        adversarial: (T,), 16-bit samples.
        label: the true one, and whether it was given rather than heard by the undefended system.
        before, after: label -> fresh passes that heard it, the most frequent first.
        success: passes of `after` that are not the label or, of a targeted attack, that are the target.
        distances: of `quality.distances`.
        queries: forward passes that the attack spent; a gradient counts as one.
        seconds: that it took.
    """

    adversarial: Tensor
    label: str
    label_given: bool
    before: dict[str, int]
    after: dict[str, int]
    success: int
    distances: dict[str, float | None]
    queries: int
    seconds: float

    @property
    def passes(self) -> int:
        return sum(self.after.values())


def load_recording(path: Path, sample_rate: int) -> Recording:
    """Read a file of any rate, channels and encoding as a system of that rate hears it.

    Channels are averaged and other rates are resampled. Raises InputError for a file that cannot be read, or
    that is shorter than 50 ms.
    """
    waveform, rate = audio.read(path)
    info = audio.probe(path)
    seconds = waveform.shape[1] / rate
    if seconds < SHORTEST:
        raise InputError(f"{path}: {1000 * seconds:.3g} ms are too short to attack; it takes {SHORTEST:g} s.")
    changes = []
    if len(waveform) > 1:
        changes.append(f"mono instead of {len(waveform)} channels")
    if rate != sample_rate:
        changes.append(f"{sample_rate} Hz instead of {rate} Hz")
    if info.subtype not in ("PCM_16", "PCM_U8", "PCM_S8"):
        changes.append(f"16-bit samples instead of {info.subtype}")
    mono = audio.resample(waveform.mean(0), rate, sample_rate)
    # what the attack starts from must itself be what a file can hold
    rounded = (mono / STEP16).round().clamp(-1 / STEP16, 1 / STEP16 - 1) * STEP16
    return Recording(rounded, ", ".join(changes) or None)


def choose_attack(name: str, settings: Mapping[str, str], system: System, *, targeted: bool) -> Attack:
    """The attack `name` with these settings, the others as strong as some hundred gradients allow.

    "pgd" takes 40 steps of half the budget with a momentum of .85. On a randomised system gradients and
    verdicts average over 5 draws where the attack would be content with one; a fixed system gets one draw.

    Raises InputError as `build_attack` does, and for a budget that 16-bit samples cannot use or a surrogate
    with other labels.
    """
    known, given = settings_of(name), dict[str, Any](settings)
    if "sample_rate" in known:
        given.setdefault("sample_rate", system.sample_rate)
    if targeted:
        given["targeted"] = True
    if name == "pgd":
        given = {"steps": STEPS, "momentum": 0.85, **given}
    attack, random = build_attack(name, **given), randomised(system.model)
    if name == "pgd":
        given.setdefault("step_size", attack.eps / 2)
    if random and getattr(attack, "eot", EOT) == 1:
        given.setdefault("eot", EOT)
    attack = build_attack(name, **given)
    if attack.eps < STEP16:
        raise InputError(f"a budget of {attack.eps:g} is less than a step of a 16-bit sample, {STEP16:.3g}.")
    surrogate = getattr(attack, "surrogate", None)
    if surrogate is not None:
        labels = as_system(surrogate.to(_device(system))).labels
        if labels != system.labels:
            raise InputError(f"the surrogate has other labels than {system.spec}: {', '.join(labels)}.")
    return attack if random else for_fixed(attack)


def attack_recording(
    system: System,
    recording: Recording,
    attack: Attack,
    goal: Goal,
    *,
    passes: int,
    noise: SeededNoise,
    progress: Callable[[], None] | None = None,
) -> Outcome:
    """Attack one recording and score it on noise that the attack has not seen.

    Args:
        attack: of 16-bit samples; targeted if the goal has a target.
        passes: fresh passes that score, before and after; one for a system without randomness.
        noise: names one item.

    Raises InputError for what the attack or the model refuses.
    """
    device = _device(system)
    clean = recording.waveform.to(device)[None]
    label = goal.label
    if label is None:
        label = int(predict(system.undefended, clean, noise=noise.fresh(CLEAN)).argmax(-1))
    wanted = torch.tensor([label if goal.target is None else goal.target], device=device)
    began = time.monotonic()
    found = _within_memory(attack, len(recording.waveform), system.sample_rate)(
        system.model, clean, wanted, noise=noise.fresh(ATTACKING), progress=progress
    )
    seconds = time.monotonic() - began
    count = passes if randomised(system.model) else 1
    before = _heard(system, clean, count, noise.fresh(CLEAN))
    after = _heard(system, found.adversarial, count, noise.fresh(ATTACKED))
    adversarial = found.adversarial[0].cpu()
    return Outcome(
        adversarial,
        system.labels[label],
        goal.label is not None,
        before,
        after,
        after.get(system.labels[goal.target], 0)
        if goal.target is not None
        else count - after.get(system.labels[label], 0),
        distances(recording.waveform, adversarial, system.sample_rate),
        int(found.queries),
        seconds,
    )


def pace(system: System, recording: Recording, attack: Attack) -> float:
    """Seconds that an attack will take for a second of sound, from timing the start of a recording."""
    device = _device(system)
    sample = recording.waveform[: system.sample_rate].to(device)[None]
    objective = Objective(system.model, torch.zeros(1, dtype=torch.long, device=device))
    gradients, forwards = attack.cost
    draws = min(getattr(attack, "eot", 1), EOT)  # which share the work of a step
    seconds = forwards / draws * _timed(lambda: objective.measure(sample, SeededNoise(0), draws))
    if gradients:
        seconds += gradients / draws * _timed(lambda: objective.gradient(sample, SeededNoise(0), draws))
    return seconds * system.sample_rate / sample.shape[1]


def check_budget(attack: Attack, clean: Tensor, other: Tensor) -> None:
    """Raise InputError unless `other` (T,) is within the attack's budget around `clean` (T,)."""
    measure = {"linf": metrics.linf, "l2": metrics.l2}.get(attack.norm)
    if other.shape != clean.shape:
        raise InputError(f"it holds {len(other)} samples, not {len(clean)}")
    if measure is not None:
        change = float(measure(other.double(), clean.double()))
        if change > attack.eps:
            raise InputError(f"its change is {change:.9g}, beyond the budget of {attack.eps:g}")


def _timed(work: Callable[[], object]) -> float:
    work()  # the first call pays for what later ones reuse
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _device(system: System) -> torch.device:
    return next((parameter.device for parameter in system.model.parameters()), torch.device("cpu"))


def _heard(system: System, waveform: Tensor, passes: int, noise: SeededNoise) -> dict[str, int]:
    answers = predict(system.model, waveform, noise=noise, passes=passes).argmax(-1)[0]
    return {system.labels[index]: count for index, count in Counter(answers.tolist()).most_common()}


def _within_memory(attack: Attack, samples: int, sample_rate: int) -> Attack:
    names = {field.name for field in fields(attack)}  # type: ignore[arg-type]
    if "inner" in names:
        return replace(attack, inner=_within_memory(attack.inner, samples, sample_rate))  # type: ignore[attr-defined]
    if "max_rows" not in names:
        return attack
    rows = max(1, int(ROWS_SECONDS * sample_rate / samples))
    return replace(attack, max_rows=min(attack.max_rows, rows))  # type: ignore[attr-defined]
