"""Draws a second of a certificate: python benchmarks/certify_speed.py [--device cuda] [-o results.json]

The compact purifier and DiffWave at its full size in one shot before the shipped recogniser, in fp32 and
bf16, against the plain loop of the released code: ten noisy clips at a time, in fp32, noise by PyTorch. All
run full batches only; best of rounds in which all take turns, on a CPU one round of DiffWave, whose weights
are not trained. On what share of draws bf16 answers as fp32 does is what certify_agreement.py finds.

About five minutes on two free CPU cores, most of them DiffWave's.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tables
import torch
from common import machine, prepare, write_json
from torch import Tensor, nn

from audiopure.certification.bases import OneShot
from audiopure.certification.laws import Gaussian
from audiopure.certification.procedures import votes
from audiopure.certification.smoothing import Rows, Sampler
from audiopure.diffusion.denoiser import EpsDenoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.evaluation.certified.engine import MANY_ROWS, ROWS
from audiopure.evaluation.certified.settings import Reduced
from audiopure.evaluation.clips import load_clips
from audiopure.nets.diffwave import DiffWave
from audiopure.padding import at_least
from audiopure.systems import load_system

SIGMA = 0.25
PLAIN = 10  # noisy clips at a time in the released code
BATCHES = {"compact": 4, "DiffWave": 2}  # full ones, of the plain loop as of ours


class Timed(NamedTuple):
    """What takes its turn in each round: the work, its draws and its rounds."""

    run: Callable[[], object]
    draws: int
    rounds: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/certify-speed.json"))
    options = parser.parse_args()
    prepare(options.threads)
    device = torch.device(options.device)
    jobs = speeds(device, options.rounds)
    best = {name: float("inf") for name in jobs}
    for k in range(options.rounds):
        for name, job in jobs.items():
            if k < job.rounds:
                best[name] = min(best[name], timed(job.run, device) / job.draws)
    results: dict[str, Any] = {
        "machine": machine(options.device),
        "sigma": SIGMA,
        "rows": ROWS.get(device.type, MANY_ROWS),
        "draws_a_second": {name: 1 / seconds for name, seconds in best.items()},
    }
    write_json(options.out, results)
    print(tables.certify_speed(results))


def speeds(device: torch.device, rounds: int) -> dict[str, Timed]:
    """Name -> what is timed."""
    system = load_system("small+digits")
    recogniser = system.undefended.to(device)
    compact = system.model.purifier.denoiser  # type: ignore[union-attr]
    torch.manual_seed(0)
    full = EpsDenoiser(DiffWave().eval().requires_grad_(False), NoiseSchedule.linear())
    x = at_least(load_clips(None, recogniser, 1, 0).waveforms[0], 16_000).to(device)
    found: dict[str, Timed] = {}
    for name, denoiser in (("compact", compact), ("DiffWave", full)):
        whole = OneShot(denoiser, recogniser, SIGMA).to(device).eval()  # type: ignore[arg-type]
        half = copy.deepcopy(whole)
        if hasattr(half.denoiser, "body_to"):
            half.denoiser.body_to(torch.bfloat16)  # type: ignore[attr-defined]
        slow = name == "DiffWave" and device.type == "cpu"
        # no batch of DiffWave fits a CPU's caches: as many rows as the plain loop has, to be done in time
        rows = PLAIN if slow else ROWS.get(device.type, MANY_ROWS)
        turns, draws = (1 if slow else rounds), BATCHES[name] * rows
        job = partial(plain, whole, x, BATCHES[name] * PLAIN)
        found[f"{name}, plain loop"] = Timed(job, BATCHES[name] * PLAIN, turns)
        for precision, base in (("fp32", whole), ("bf16", Reduced(half))):
            sampler = Sampler(base, Gaussian(SIGMA), x, 0, 0, Rows(rows))
            job = partial(sampler.sum, "estimate", 0, draws, votes)
            found[f"{name}, {precision}"] = Timed(job, draws, turns)
    return found


def plain(base: nn.Module, x: Tensor, draws: int) -> None:
    counts = [0] * 10
    with torch.no_grad():
        for _ in range(draws // PLAIN):
            batch = x.repeat(PLAIN, 1)
            answers = base(batch + SIGMA * torch.randn_like(batch), noise=None).argmax(1)
            for answer in answers.cpu().tolist():
                counts[answer] += 1


def timed(job: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
