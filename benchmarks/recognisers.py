"""Accuracy of the shipped recognisers on the test split: python benchmarks/recognisers.py --data FOLDER

Clean, with white noise, and behind the shipped purifier at n_star = 3, on all test clips of `sc09` and `fsdd`
(a transfer test: neither was trained on it), with 95 % Clopper-Pearson intervals over clips.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import machine, prepare, write_json
from rich.progress import track
from torch import Tensor, nn

import audiopure
from audiopure import hub
from audiopure.data import collate, data_root, load_dataset
from audiopure.metrics import clopper_pearson
from audiopure.noise import SeededNoise

SETS = ("sc09", "fsdd")
NAMES = ("digits", "m5")
SIGMA = 0.0245  # the noise of n_star = 3


@torch.inference_mode()
def right(system: nn.Module, batches: list[tuple[Tensor, Tensor]], sigma: float = 0.0) -> list[int]:
    """1 for each clip that is recognised, 0 for each that is not; noise is replayed from a seed."""
    out: list[int] = []
    for number, (waves, targets) in enumerate(batches):
        noise = SeededNoise(0).fresh(number)
        if sigma:
            waves = waves + sigma * noise.normal(tuple(waves.shape), draw=99)  # type: ignore[arg-type]
        if isinstance(system, audiopure.Defended):
            logits = system(waves, noise=noise)
        else:
            logits = system(waves)
        out += (logits.argmax(1) == targets).int().tolist()
    return out


def cell(values: list[int]) -> dict[str, float]:
    low, high = clopper_pearson(sum(values), len(values))
    return {"accuracy": sum(values) / len(values), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="folder of datasets; default: the variable AUDIOPURE_DATA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/recognisers.json"))
    options = parser.parse_args()
    prepare(options.threads)
    purifier = audiopure.load_purifier()
    rows: list[dict[str, Any]] = []
    for name in SETS:
        clips = load_dataset(name, data_root(options.data), "test")
        waves = clips.load_all()
        for recogniser in track(NAMES, description=name):
            model = audiopure.load_recogniser(recogniser)
            targets = torch.tensor([list(model.labels).index(clip.label) for clip in clips])  # type: ignore[arg-type]
            batches = [(collate(waves[i : i + 64])[0], targets[i : i + 64]) for i in range(0, len(waves), 64)]
            rows.append(
                {
                    "recogniser": recogniser,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "set": name,
                    "clips": len(waves),
                    "clean": cell(right(model, batches)),
                    "noisy": cell(right(model, batches, SIGMA)),
                    "purified": cell(right(audiopure.defend(model, purifier), batches)),
                }
            )
    weights = {name: hub.digest(name) for name in (*NAMES, "small")}
    write_json(options.out, {"machine": machine(), "weights": weights, "sigma": SIGMA, "rows": rows})


if __name__ == "__main__":
    main()
