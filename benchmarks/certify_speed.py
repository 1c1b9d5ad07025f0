"""Draws a second of a certificate: python benchmarks/certify_speed.py [--device cuda] [-o results.json]

The compact purifier and DiffWave at its full size in one shot before the shipped recogniser, in fp32 and
bf16, against the plain loop of the released code: ten noisy clips at a time, in fp32, noise by PyTorch.
Labels of bf16 are compared with those of fp32 on the same draws. Best of rounds in which all take turns.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tables
import torch
from common import machine, prepare, write_json
from torch import Tensor, nn

from audiopure.certification.bases import OneShot
from audiopure.certification.laws import Gaussian
from audiopure.certification.procedures import votes
from audiopure.certification.smoothing import Sampler
from audiopure.diffusion.denoiser import EpsDenoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.evaluation.certified.engine import MANY_ROWS, ROWS
from audiopure.evaluation.certified.settings import Reduced
from audiopure.evaluation.clips import load_clips
from audiopure.nets.diffwave import DiffWave
from audiopure.systems import load_system

SIGMA = 0.25
PLAIN = 10  # noisy clips at a time in the released code
AGREE = 500  # draws of each of ten clips whose labels are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/certify-speed.json"))
    options = parser.parse_args()
    prepare(options.threads)
    device = torch.device(options.device)
    system = load_system("small+digits")
    recogniser = system.undefended.to(device)
    compact = system.model.purifier.denoiser  # type: ignore[union-attr]
    torch.manual_seed(0)
    full = EpsDenoiser(DiffWave().eval().requires_grad_(False), NoiseSchedule.linear())
    clip = load_clips(None, recogniser, 10, 0).waveforms
    x = nn.functional.pad(clip[0], (0, max(0, 16_000 - len(clip[0])))).to(device)
    rows = ROWS.get(device.type, MANY_ROWS)
    jobs: dict[str, tuple[Callable[[], None], int]] = {}
    bases: dict[str, nn.Module] = {}
    for name, denoiser, draws in (("compact", compact, 100), ("DiffWave", full, 10)):
        whole = OneShot(denoiser, recogniser, SIGMA).to(device).eval()  # type: ignore[arg-type]
        half = copy.deepcopy(whole)
        if hasattr(half.denoiser, "body_to"):
            half.denoiser.body_to(torch.bfloat16)  # type: ignore[attr-defined]
        bases |= {f"{name}, fp32": whole, f"{name}, bf16": Reduced(half)}
        jobs[f"{name}, plain loop"] = (lambda b=whole, n=draws: plain(b, x, n)), draws
        for key in ("fp32", "bf16"):
            base = bases[f"{name}, {key}"]
            jobs[f"{name}, {key}"] = (lambda b=base, n=draws: ours(b, x, n, rows)), draws
    best = {key: float("inf") for key in jobs}
    for _ in range(options.rounds):
        for key, (job, draws) in jobs.items():
            best[key] = min(best[key], timed(job, device) / draws)
    results: dict[str, Any] = {
        "machine": machine(options.device),
        "sigma": SIGMA,
        "rows": rows,
        "draws_a_second": {key: 1 / seconds for key, seconds in best.items()},
        "agreement": agreement(bases, clip, device, rows),
    }
    write_json(options.out, results)
    print(tables.certify_speed(results))


def ours(base: nn.Module, x: Tensor, draws: int, rows: int) -> None:
    Sampler(base, Gaussian(SIGMA), x, seed=0, item=0, rows=rows).sum("estimate", 0, draws, votes)


def plain(base: nn.Module, x: Tensor, draws: int) -> None:
    counts = [0] * 10
    with torch.no_grad():
        for _ in range(draws // PLAIN):
            batch = x.repeat(PLAIN, 1)
            answers = base(batch + SIGMA * torch.randn_like(batch), noise=None).argmax(1)
            for answer in answers.cpu().tolist():
                counts[answer] += 1


def timed(job: Callable[[], None], device: torch.device) -> float:
    begin = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def agreement(bases: dict[str, nn.Module], clips: list[Tensor], device: torch.device, rows: int) -> float:
    """Share of draws on which bf16 and fp32 give the same label."""
    same = total = 0
    for item, clip in enumerate(clips):
        x = nn.functional.pad(clip, (0, max(0, 16_000 - len(clip)))).to(device)
        found = []
        for key in ("compact, fp32", "compact, bf16"):
            sampler = Sampler(bases[key], Gaussian(SIGMA), x, seed=0, item=item, rows=rows)
            found.append(torch.cat([s.argmax(1) for s in sampler.scores("estimate", 0, AGREE)]))
        same += int((found[0] == found[1]).sum())
        total += AGREE
    return same / total


if __name__ == "__main__":
    main()
