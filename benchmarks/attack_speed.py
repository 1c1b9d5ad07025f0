"""Speed of white-box attacks: python benchmarks/attack_speed.py [-o results.json]

Exact gradients and PGD steps a second against the naive loop (clip by clip, draw by draw); the share of the
machine's arithmetic that a gradient uses; processes against threads; restarts side by side; denormals. Times
are the best of several rounds in which all configurations take turns, so that other load hits all alike.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tables
import torch
from common import machine, prepare, write_json
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from audiopure import hub
from audiopure.attacks import Pgd
from audiopure.attacks.objective import Objective, call
from audiopure.evaluation.clips import batches, load_clips
from audiopure.noise import SeededNoise
from audiopure.systems import load_system

SYSTEMS = {
    "undefended": "digits",
    "noise only": "small,reverse=no+digits",
    "one-shot": "small,sampler=one-shot+digits",
    "n*=3": "small+digits",
    "n*=3, bf16": "small,precision=bf16+digits",
}
CLIPS = 8  # the shipped clips of one second that most attacks meet at once
DRAWS = 4  # EOT
ROWS = (8, 16, 32, 64)
USED = 16  # `max_rows` of an evaluation on a CPU
RESTARTS = 8
TOGETHER = ("undefended", "n*=3")  # the systems that processes, restarts and denormals are timed on
TURN = 0.3  # seconds that a job's turn takes at least
PEAK = 2048  # rows and columns of the matrices that the machine's arithmetic is measured with

Jobs = dict[Any, Callable[[], float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/attack-speed.json"))
    options = parser.parse_args()
    prepare(2)
    load = round(os.getloadavg()[0], 1)
    models = {name: load_system(spec).model for name, spec in SYSTEMS.items()}
    waveform, labels = clips()
    jobs: Jobs = {}
    for threads in (1, 2):
        jobs[threads, "peak", ""] = partial(with_threads, threads, matrix_product)
        for name, model in models.items():
            for key, job in climbing(model, waveform, labels):
                jobs[threads, key, name] = partial(with_threads, threads, job)
    for name in TOGETHER:
        for key, job in one_clip(models[name], waveform[:1], labels[:1]):
            jobs[1, key, name] = partial(with_threads, 1, job)
        for key, job in with_denormals(models[name], waveform, labels):
            jobs[1, key, name] = partial(with_threads, 1, job)
    with pair() as processes:
        for name in TOGETHER:
            jobs[1, "pair", name] = partial(in_processes, processes, name)
            jobs[2, "single", name] = partial(with_threads, 2, partial(gradients, name))
        best = take_turns(jobs, options.rounds)
    torch.set_num_threads(1)
    results = {
        "machine": machine() | {"threads": [1, 2], "load_before": load},
        "weights": {name: hub.digest(name) for name in ("small", "digits")},
        "settings": {"clips": CLIPS, "draws": DRAWS, "rows": ROWS, "used": USED, "restarts": RESTARTS},
        **record(best, models, waveform, labels),
    }
    write_json(options.out, results)
    print(tables.attack_speed(results))


def clips() -> tuple[Tensor, Tensor]:
    """Shipped clips and their labels. Shape: (CLIPS, T), (CLIPS,)."""
    recogniser = load_system("digits").model
    chosen = load_clips(None, recogniser, CLIPS, 0)
    batch = next(batches(chosen, CLIPS, 16_000))
    return batch.waveform, batch.labels


# --- the naive loop -----------------------------------------------------------------------------------------


def naive_gradient(model: nn.Module, clip: Tensor, label: Tensor, noise: SeededNoise, draws: int) -> Tensor:
    """Mean gradient of one clip's loss, draw after draw. Shape: (1, T) -> (1, T)."""
    total = torch.zeros_like(clip)
    for draw in range(draws):
        x = clip.clone().requires_grad_()
        loss = nn.functional.cross_entropy(call(model, x, noise.fresh(draw), None), label)
        total += torch.autograd.grad(loss, x)[0]
    return total / draws


def naive_step(model: nn.Module, waveform: Tensor, labels: Tensor, attack: Pgd) -> float:
    """Seconds of a PGD step of each clip as most released code takes it: clip by clip, draw by draw."""
    begin = time.perf_counter()
    for number, clip in enumerate(waveform.split(1)):
        source = SeededNoise(0).rows([number])
        slope = naive_gradient(model, clip, labels[number : number + 1], source, attack.eot)
        moved = clip + attack.step * slope.sign()
        _ = moved.clamp(clip - attack.eps, clip + attack.eps).clamp(-1, 1)
    return time.perf_counter() - begin


# --- jobs: each returns its seconds -------------------------------------------------------------------------


def climbing(model: nn.Module, waveform: Tensor, labels: Tensor) -> Iterator[tuple[Any, Callable[[], float]]]:
    """Gradients of all clips by number of rows, a step of PGD, the naive step of a quarter of the clips."""
    attack = Pgd(steps=1, eot=DRAWS, selection=1, max_rows=USED)
    few = CLIPS // 4
    yield "naive", partial(naive_step, model, waveform[:few], labels[:few], attack)
    yield "pgd", partial(pgd_step, model, waveform, labels, attack)
    for rows in ROWS:
        objective = Objective(model, labels, max_rows=rows)
        yield rows, partial(timed, partial(objective.gradient, waveform, SeededNoise(0), rows_draws(rows)))


def rows_draws(rows: int) -> int:
    """Draws that fill `rows` rows, twice if they are few."""
    return max(2, rows // CLIPS)


def one_clip(model: nn.Module, clip: Tensor, label: Tensor) -> Iterator[tuple[Any, Callable[[], float]]]:
    """A step of all restarts on one clip with one draw, side by side and one after another."""
    for key, rows in (("side by side", RESTARTS), ("in turn", 1)):
        yield key, partial(pgd_step, model, clip, label, Pgd(steps=1, restarts=RESTARTS, max_rows=rows))


def with_denormals(
    model: nn.Module, waveform: Tensor, labels: Tensor
) -> Iterator[tuple[Any, Callable[[], float]]]:
    """A gradient of clips that decay to silence through the denormals, flushed and kept."""
    rate = 100.0  # a second: below 1e-38 within the clip
    decaying = waveform * torch.exp(-rate * torch.arange(waveform.shape[1]) / 16_000)
    objective = Objective(model, labels, max_rows=USED)

    def job(flush: bool) -> float:
        torch.set_flush_denormal(flush)
        try:
            return timed(partial(objective.gradient, decaying, SeededNoise(0), 2))
        finally:
            torch.set_flush_denormal(True)

    yield "denormals flushed", partial(job, True)
    yield "denormals kept", partial(job, False)


def pgd_step(model: nn.Module, waveform: Tensor, labels: Tensor, attack: Pgd) -> float:
    """Seconds from the start of an attack to the end of its last step; judging the result is not in it."""
    begin, ends = time.perf_counter(), []
    attack(model, waveform, labels, noise=SeededNoise(0), progress=lambda: ends.append(time.perf_counter()))
    return ends[-1] - begin


def matrix_product() -> float:
    a = torch.rand(PEAK, PEAK, generator=torch.Generator().manual_seed(0))
    return min(timed(partial(torch.mm, a, a)) for _ in range(4))


def timed(job: Callable[[], object]) -> float:
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin


def with_threads(threads: int, job: Callable[[], float]) -> float:
    torch.set_num_threads(threads)
    return job()


def take_turns(jobs: Jobs, rounds: int) -> dict[Any, float]:
    """Best seconds of each job; short ones are repeated within their turn."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for key, job in jobs.items():
            begin = time.perf_counter()
            best[key] = min(best[key], job())
            while time.perf_counter() - begin < TURN:
                best[key] = min(best[key], job())
    return best


# --- two processes of one thread ----------------------------------------------------------------------------

_here: dict[str, Any] = {}  # of a process: the barrier at which both start


def pair() -> ProcessPoolExecutor:
    """Two processes of one thread each, as `audiopure evaluate --workers 2` starts them."""
    context = get_context("spawn")
    return ProcessPoolExecutor(2, context, _start, (context.Barrier(2),))


def _start(barrier: Any) -> None:
    prepare(1)
    _here["barrier"] = barrier


def _task(name: str) -> tuple[float, float]:
    gradients(name, draws=1)
    _here["barrier"].wait()
    begin = time.monotonic()
    gradients(name)
    return begin, time.monotonic()


def in_processes(processes: ProcessPoolExecutor, name: str) -> float:
    """Seconds in which each of the processes takes `gradients`."""
    begins, ends = zip(*processes.map(_task, [name, name]), strict=True)
    return max(ends) - min(begins)


def gradients(name: str, draws: int = DRAWS) -> float:
    """Seconds of gradients of all clips, in this process."""
    if name not in _here:
        waveform, labels = clips()
        objective = Objective(load_system(SYSTEMS[name]).model, labels, max_rows=USED)
        _here[name] = partial(objective.gradient, waveform, SeededNoise(0))
    return timed(partial(_here[name], draws))


# --- the record ---------------------------------------------------------------------------------------------


def record(
    best: dict[Any, float], models: dict[str, nn.Module], waveform: Tensor, labels: Tensor
) -> dict[str, Any]:
    peak = {threads: 2 * PEAK**3 / best[threads, "peak", ""] / 1e9 for threads in (1, 2)}
    work = {name: gflop(model, waveform, labels) for name, model in models.items()}
    rows = []
    for threads in (1, 2):
        for name in models:
            batched = {n: rows_draws(n) * CLIPS / best[threads, n, name] for n in ROWS}
            naive, pgd = CLIPS // 4 / best[threads, "naive", name], CLIPS / best[threads, "pgd", name]
            row = {
                "system": name,
                "threads": threads,
                "gradients": {str(n): round(value, 2) for n, value in batched.items()},
                "naive_gradients": round(naive * DRAWS, 2),
                "steps": round(pgd, 3),
                "naive_steps": round(naive, 3),
                "share": round(work[name] * batched[USED] / peak[threads], 4),
            }
            rows.append(row)
    return {
        "rows": rows,
        "gflop": {name: round(value, 4) for name, value in work.items()},
        "peak_gflops": {str(threads): round(value, 1) for threads, value in peak.items()},
        "agreement": {name: agreement(model, waveform, labels) for name, model in models.items()},
        "together": {name: together(best, name) for name in TOGETHER},
    }


def gflop(model: nn.Module, waveform: Tensor, labels: Tensor) -> float:
    """Operations of one gradient of one clip in products of matrices and convolutions, FFTs left out."""
    objective = Objective(model, labels, max_rows=CLIPS)
    with FlopCounterMode(display=False) as counter:
        objective.gradient(waveform, SeededNoise(0), 1)
    return counter.get_total_flops() / CLIPS / 1e9


def agreement(model: nn.Module, waveform: Tensor, labels: Tensor) -> dict[str, float]:
    """Distance of the batched gradient from the naive one as a share of its length, in two precisions."""
    exact = copy.deepcopy(model).double()
    return {
        "float32": float(f"{_distance(model, waveform, labels):.1e}"),
        "float64": float(f"{_distance(exact, waveform.double(), labels):.1e}"),
    }


def _distance(model: nn.Module, waveform: Tensor, labels: Tensor) -> float:
    """The larger of two clips."""
    few = 2
    found = Objective(model, labels[:few], max_rows=USED).gradient(waveform[:few], SeededNoise(0), DRAWS)
    errors = []
    for number, clip in enumerate(waveform[:few].split(1)):
        source = SeededNoise(0).rows([number])
        naive = naive_gradient(model, clip, labels[number : number + 1], source, DRAWS)
        errors.append(float((found.gradient[number] - naive[0]).norm() / naive.norm()))
    return max(errors)


def together(best: dict[Any, float], name: str) -> dict[str, float]:
    """What else was timed of a system: gradients or steps a second, and seconds over seconds."""
    kept, flushed = (best[1, f"denormals {key}", name] for key in ("kept", "flushed"))
    values = {
        "two processes": 2 * CLIPS * DRAWS / best[1, "pair", name],
        "two threads": CLIPS * DRAWS / best[2, "single", name],
        "restarts side by side": RESTARTS / best[1, "side by side", name],
        "restarts in turn": RESTARTS / best[1, "in turn", name],
        "denormals kept over flushed": kept / flushed,
    }
    return {key: round(value, 3) for key, value in values.items()}


if __name__ == "__main__":
    main()
