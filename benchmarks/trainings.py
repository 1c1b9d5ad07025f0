"""Weights behind docs/paper.md that do not ship, run after run, each with its curve in the folder of weights.

    python benchmarks/trainings.py --data DATA --work FOLDER [--only NAME ...] [--threads N] [--device cuda]

Resumable: every run goes on in its folder below --work; weights that lie in weights/ are not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import wanted

from audiopure.atomic import whole
from audiopure.evaluation.reproduce.entries import WEIGHTS, weights_file

ROOT = Path(__file__).resolve().parents[1]  # recipes name each other's weights from here
KEPT = ROOT / "weights"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of datasets")
    parser.add_argument("--work", required=True, type=Path, help="where unfinished runs lie")
    parser.add_argument("--only", nargs="+", help="names of weights, NAME* for what begins so; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    failed = []
    for name, words in WEIGHTS.items():
        missing = wanted(name, options) and not weights_file(KEPT, name).is_file()
        if missing and not trained(name, words.split(), options):
            failed.append(name)
    if failed:
        print(f"not trained: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def trained(name: str, words: list[str], options: argparse.Namespace) -> bool:
    """Train and keep weights and curve; whether that succeeded."""
    print(name, flush=True)
    folder = (options.work / name).resolve()
    command = [sys.executable, "-m", "audiopure", "train", *words, "--data", str(options.data.resolve())]
    command += ["--output", str(folder), "--threads", str(options.threads), "--device", options.device]
    if subprocess.call(command, cwd=ROOT) != 0:
        return False
    # the curve first: weights that are there count as finished
    for left, kept in (
        ("log.jsonl", weights_file(KEPT, name).with_suffix(".jsonl")),
        ("model.safetensors", weights_file(KEPT, name)),
    ):
        with whole(kept) as partial:
            partial.write_bytes((folder / left).read_bytes())
    return True


if __name__ == "__main__":
    sys.exit(main())
