"""Error of every gradient strategy for the shipped purifier: python benchmarks/gradients.py [-o results.json]

The exact gradient is that of plain autograd in float64, which the tests check against finite differences. The
loss is the defended recogniser's cross-entropy, as an attack sees it; JSON goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from common import machine, prepare, write_json
from torch import Tensor

from audiopure import hub, load_purifier, load_recogniser
from audiopure.data import collate, load_dataset
from audiopure.diffusion.adjoint import Adjoint
from audiopure.diffusion.gradient import Full, Gradient, Identity, NetworkConstant, Recompute
from audiopure.diffusion.samplers import Ddpm, ReverseSde, Sampler
from audiopure.noise import SeededNoise

STRATEGIES: tuple[Gradient, ...] = (Full(), Recompute(), Adjoint(), NetworkConstant(), Identity())
SAMPLERS: tuple[Sampler, ...] = (Ddpm(), ReverseSde())
STEPS = (1, 3, 10)


@dataclass(frozen=True)
class Clips:
    """Clips (B, T), samples of each (B,), labels (B,)."""

    waveform: Tensor
    lengths: Tensor
    labels: Tensor


def load_clips(folder: Path, labels: tuple[str, ...], count: int) -> Clips:
    dataset = load_dataset(folder)
    known = dataset.with_clips(clip for clip in dataset if clip.label in labels).stratified(count, seed=0)
    waveform, lengths = collate([known.load(clip) for clip in known])
    return Clips(waveform, lengths, torch.tensor([labels.index(clip.label) for clip in known]))


class Audit:
    """Gradients of one loss by every strategy, sampler, number of steps and precision."""

    def __init__(self, purifier: str, recogniser: str, folder: Path, count: int):
        self.purifier = load_purifier(purifier)
        self.recogniser = load_recogniser(recogniser)
        self.clips = load_clips(folder, self.recogniser.labels, count)  # type: ignore[arg-type]
        self.noise = SeededNoise(0)

    def gradient(self, strategy: Gradient, sampler: Sampler, n_star: int, dtype: torch.dtype) -> Tensor:
        """d loss / d waveform (B, T), float64."""
        self.purifier.to(dtype)
        self.recogniser.to(dtype)
        purifier = self.purifier.replace(n_star=n_star, sampler=sampler, gradient=strategy)
        x = self.clips.waveform.to(dtype).requires_grad_()
        logits = self.recogniser(purifier(x, lengths=self.clips.lengths, noise=self.noise))
        loss = torch.nn.functional.cross_entropy(logits, self.clips.labels, reduction="sum")
        return torch.autograd.grad(loss, x)[0].double()

    def row(self, strategy: Gradient, sampler: Sampler, n_star: int, exact: Tensor) -> dict[str, Any]:
        """Errors over clips; each clip's gradient counts alike, whatever its size."""
        double = self.gradient(strategy, sampler, n_star, torch.float64)
        before = time.perf_counter()
        single = self.gradient(strategy, sampler, n_star, torch.float32)
        seconds = time.perf_counter() - before
        return {
            "strategy": type(strategy).__name__,
            "sampler": type(sampler).__name__,
            "n_star": n_star,
            "claims_exact": strategy.exact,
            "float64": compare(double, exact),
            "float32": compare(single, exact),
            "float32_seconds": round(seconds, 3),
        }


def compare(estimate: Tensor, exact: Tensor) -> dict[str, float]:
    """Mean over clips of relative L2 error, cosine, and share of samples of equal sign (what PGD uses)."""
    error = (estimate - exact).norm(dim=1) / exact.norm(dim=1)
    cosine = torch.cosine_similarity(estimate, exact, dim=1)
    counted = exact != 0
    signs = ((estimate.sign() == exact.sign()) & counted).sum(1) / counted.sum(1)
    names = ("relative_error", "cosine", "sign_agreement")
    return {name: float(value.mean()) for name, value in zip(names, (error, cosine, signs), strict=True)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    clips = Path(str(resources.files("audiopure") / "assets" / "clips"))
    parser.add_argument("--data", type=Path, default=clips, help="folder of labelled clips; default: shipped")
    parser.add_argument("--purifier", default="small", help="shipped name or weights file")
    parser.add_argument("--recogniser", default="digits", help="shipped name or weights file")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    prepare(options.threads)
    audit = Audit(options.purifier, options.recogniser, options.data, options.clips)
    rows = []
    for sampler in SAMPLERS:
        for n_star in STEPS:
            exact = audit.gradient(Full(), sampler, n_star, torch.float64)
            rows += [audit.row(strategy, sampler, n_star, exact) for strategy in STRATEGIES]
    results = {
        "machine": machine(),
        "weights": {name: hub.digest(name) for name in (options.purifier, options.recogniser)},
        "clips": len(audit.clips.labels),
        "rows": rows,
    }
    print(json.dumps(results, indent=1))
    if options.output:
        write_json(options.output, results)


if __name__ == "__main__":
    main()
