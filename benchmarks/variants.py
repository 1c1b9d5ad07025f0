"""Samplers, steps and level policies compared: python benchmarks/variants.py --data FOLDER [-o results.json]

Resumable: rows that the output file already holds for the same weights and settings are not computed again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine, prepare, read_json, write_json
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from audiopure import hub, load_purifier, load_recogniser
from audiopure.attacks import PAPER_BUDGETS
from audiopure.data import data_root
from audiopure.evaluation.studies.variants import (
    LEVELS,
    SAMPLERS,
    Speech,
    level_attacked,
    level_row,
    sampler_row,
    steps_row,
)

SAMPLER_STEPS = (1, 3, 5, 10)
STEPS = (0, 1, 2, 3, 5, 7, 10)
ATTACKED = ("fixed", "0.1, 0.5 to 4")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="folder of datasets; default: the variable AUDIOPURE_DATA")
    parser.add_argument("--purifier", default="small", help="shipped name or weights file")
    parser.add_argument("--recogniser", default="digits", help="shipped name or weights file")
    parser.add_argument("--clips", type=int, default=200, help="test clips for samplers and steps")
    parser.add_argument("--level-clips", type=int, help="test clips for level policies; default: all")
    parser.add_argument("--attack-clips", type=int, default=100)
    parser.add_argument("--attack-steps", type=int, default=20)
    parser.add_argument("--eot", type=int, default=2)
    parser.add_argument(
        "--attacked", nargs="*", default=list(ATTACKED), choices=list(LEVELS), metavar="LEVEL"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/variants.json"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    prepare(options.threads)
    names = (
        "purifier",
        "recogniser",
        "clips",
        "level_clips",
        "attack_clips",
        "attack_steps",
        "eot",
        "precision",
    )
    settings = {name: getattr(options, name) for name in names} | {
        "weights_sha256": {name: hub.digest(getattr(options, name)) for name in ("purifier", "recogniser")}
    }
    results = read_json(options.out)
    if results.get("settings") != settings:
        results = {"settings": settings, "rows": {}}
    results["machine"] = machine()
    jobs = plan(options, data_root(options.data))
    with Progress() as progress:
        for key in progress.track(list(jobs), description="Variants"):
            if key not in results["rows"]:
                results["rows"][key] = jobs[key]()
                write_json(options.out, results)
    write_json(options.out, results)
    show(results["rows"])


def plan(options: argparse.Namespace, root: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every row by the key under which it is stored, as something to call."""
    purifier = load_purifier(options.purifier, precision=options.precision)
    recogniser = load_recogniser(options.recogniser)
    some, every = Speech.read(root, options.clips), Speech.read(root, options.level_clips)
    few = Speech.read(root, options.attack_clips)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {}
    for n_star in STEPS:
        jobs[f"steps/{n_star}"] = lambda n=n_star: steps_row(purifier, recogniser, some, n)
    for level in LEVELS:
        jobs[f"level/{level}"] = lambda level=level: level_row(purifier, recogniser, every, level)
    for name in SAMPLERS:
        for n_star in SAMPLER_STEPS:
            key = f"sampler/{name}/{n_star}"
            jobs[key] = lambda name=name, n=n_star: sampler_row(purifier, recogniser, some, name, n)
    for level in options.attacked:
        for norm in PAPER_BUDGETS:
            jobs[f"attacked/{level}/{norm}"] = lambda level=level, norm=norm: level_attacked(
                purifier, recogniser, few, level, norm, steps=options.attack_steps, eot=options.eot
            )
    return jobs


def show(rows: dict[str, dict[str, Any]]) -> None:
    table = Table("variant", "correct", "accuracy", "95 % interval", "SI-SDR mean [median]")
    for key, row in rows.items():
        parts = {"": row} if "accuracy" in row else {k: v for k, v in row.items() if isinstance(v, dict)}
        for part, value in parts.items():
            low, high = value["interval"]
            ratio = f"{value['si_sdr_mean']} [{value['si_sdr_median']}]" if "si_sdr_mean" in value else ""
            count = f"{value['correct']} of {value['clips']}"
            table.add_row(f"{key} {part}", count, f"{value['accuracy']}", f"{low} to {high}", ratio)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
