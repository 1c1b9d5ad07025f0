"""Running an evaluation to its end, in this process or in several, and its cost beforehand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from audiopure.attacks import Attack
from audiopure.attacks.base import Cost
from audiopure.attacks.objective import Objective, Slope, Value
from audiopure.evaluation.card import CLEAN, Card, Gradient
from audiopure.evaluation.clips import Batch
from audiopure.evaluation.crew import share
from audiopure.evaluation.engine import Evaluation
from audiopure.evaluation.summary import card
from audiopure.noise import SeededNoise

Progress = Callable[[float], None]  # told seconds of the estimate that have just been done

TINY = torch.finfo(torch.float32).tiny  # half of it is a denormal

# of the clips that could still be there, how many later stages meet: only for the estimate
SURVIVORS = 0.6


def estimate(work: Evaluation) -> dict[tuple[str, str], float]:
    """(row, condition) -> seconds for one clip in one process, from timing a batch of each row."""
    batch = next(work.batches()).to(work.worker.device)
    rows = work.worker.rows
    seconds = {}
    for contender in work.contenders:
        model = contender.model.to(work.worker.device)
        objective = Objective(model, batch.labels, lengths=batch.lengths, max_rows=rows)
        noise = SeededNoise(0, tuple(batch.items))
        draws = max(1, rows // len(batch.index))
        gradient, forward = (_time(f, batch, noise, draws) for f in (objective.gradient, objective.measure))
        for condition in contender.planned.conditions:
            cost = Cost(0, 0)
            if condition.key != CLEAN:
                build = contender.attacks[condition.key]
                cost = build.cost if isinstance(build, Attack) else Cost(100, 20)
            share = SURVIVORS if condition.survivors else 1.0
            each = cost.gradients * gradient + (cost.forwards + contender.planned.passes) * forward
            seconds[contender.planned.key, condition.key] = share * each
    return seconds


def total(work: Evaluation, seconds: Mapping[tuple[str, str], float], workers: int) -> float:
    """Seconds of wall clock that are still to come."""
    known = {(o.row, o.condition, o.clip) for o in work.worker.ledger.read()}
    batches = list(work.batches())
    left = 0.0
    for row, number in work.units:
        planned = work.contenders[row].planned
        for condition in planned.conditions:
            names = [work.clips.ids[i] for i in batches[number].index if i < condition.clips]
            missing = sum((planned.key, condition.key, name) not in known for name in names)
            left += missing * seconds[planned.key, condition.key]
    return left / workers


def run(
    work: Evaluation,
    *,
    workers: int = 1,
    threads: int = 1,
    seconds: Mapping[tuple[str, str], float] | None = None,
    progress: Progress = lambda seconds: None,
) -> None:
    """Do all that is missing.

    Args:
        workers: processes; more than one only where `config.system` names the system.
        threads: of each process.
        seconds: of `estimate`, for the progress.
    """

    def tick(row: str, condition: str, clips: int) -> None:
        progress((seconds or {}).get((row, condition), 0.0) * clips / workers)

    if workers == 1:
        with using_threads(threads):
            for unit in work.units:
                work.do(unit, tick)
        return
    prepare = partial(Evaluation.prepare, work.config, work.folder)
    share(prepare, units=len(work.units), workers=workers, threads=threads, tick=tick)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """In here torch computes in `count` threads and flushes denormals, which slow some processors tenfold."""
    before, flushed = torch.get_num_threads(), float(torch.tensor(TINY) / 2) == 0
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(before)


def _time(
    measure: Callable[[Tensor, SeededNoise, int], Value | Slope], batch: Batch, noise: SeededNoise, draws: int
) -> float:
    """Seconds for one clip and draw."""
    measure(batch.waveform, noise, draws)  # the first also allocates
    begin = time.perf_counter()
    float(measure(batch.waveform, noise, draws).loss.sum())  # waits for the device
    return (time.perf_counter() - begin) / (len(batch.index) * draws)


def finish(work: Evaluation, gradients: Mapping[str, Gradient]) -> Card:
    """The card of what the folder holds."""
    return card(work.plan, gradients, work.worker.ledger.read())


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
