"""Denoising and harm tables: python benchmarks/denoising.py --data FOLDER [-o results.json]

Resumable: rows that the output file already holds for the same weights and settings are not computed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import machine, prepare, read_json, write_json
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from audiopure import hub, load_purifier
from audiopure.data import data_root
from audiopure.evaluation.studies.denoising import (
    SIGMAS,
    TEST_SPLITS,
    NoisySet,
    Tuned,
    compare,
    sample_clips,
    summarise,
    tuning_clips,
)
from audiopure.evaluation.studies.harm import harm, other_sounds

METHODS = ("noisy", "wiener", "noisereduce", "purifier")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="folder of datasets; default: the variable AUDIOPURE_DATA")
    parser.add_argument("--purifier", default="small", help="shipped name or weights file")
    parser.add_argument("--clips", type=int, default=100, help="at most so many of each set")
    parser.add_argument("--tuning-clips", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/denoising.json"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    prepare(options.threads)
    root = data_root(options.data)
    settings = {
        "purifier": options.purifier,
        "weights_sha256": hub.digest(options.purifier),
        "clips": options.clips,
        "tuning_clips": options.tuning_clips,
    }
    results = read_json(options.out)
    if results.get("settings") != settings:
        results = {"settings": settings, "tuned": {}, "rows": []}
    results["machine"] = machine()
    tune(results, root, options)
    denoise(results, root, options)
    results["summary"] = summarise(results["rows"])
    purifier = load_purifier(options.purifier)
    wiener = Tuned.from_dict(results["tuned"]["0.0245"]).wiener
    results["harm"] = {"n_star": 3, "level": repr(purifier.level), "wiener": wiener.__dict__} | {
        name: harm(clips, purifier, wiener) for name, clips in other_sounds(root).items()
    }
    write_json(options.out, results)
    show(results)


def tune(results: dict[str, Any], root: Path, options: argparse.Namespace) -> None:
    missing = [sigma for sigma in SIGMAS if str(sigma) not in results["tuned"]]
    clips = tuning_clips(root, options.tuning_clips) if missing else []
    with Progress() as progress:
        for sigma in progress.track(missing, description="Tuning the baselines"):
            results["tuned"][str(sigma)] = Tuned.on(NoisySet.make(clips, sigma)).to_dict()
            write_json(options.out, results)


def denoise(results: dict[str, Any], root: Path, options: argparse.Namespace) -> None:
    denoiser = hub.load(options.purifier, kind="denoiser")
    done = {(row["set"], row["sigma"]) for row in results["rows"]}
    with Progress() as progress:
        task = progress.add_task("Denoising", total=len(TEST_SPLITS) * len(SIGMAS), completed=len(done))
        for name in TEST_SPLITS:
            missing = [sigma for sigma in SIGMAS if (name, sigma) not in done]
            clips = sample_clips(name, root, options.clips) if missing else []
            for sigma in missing:
                tuned = Tuned.from_dict(results["tuned"][str(sigma)])
                row = compare(NoisySet.make(clips, sigma), tuned, denoiser)
                results["rows"].append({"set": name} | row)
                write_json(options.out, results)
                progress.advance(task)


def show(results: dict[str, Any]) -> None:
    console = Console(width=140)
    table = Table(title="SI-SDR in dB, mean [median]")
    for column in ("set", "sigma", *METHODS, "margin over Wiener", "margin over noisereduce"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results["rows"]:
        scores = [f"{row['mean'][name]:.1f} [{row['median'][name]:.1f}]" for name in METHODS]
        margins = [f"{row[f'margin_{n}']:+.2f} ± {row[f'margin_{n}_se']:.2f}" for n in METHODS[1:3]]
        table.add_row(row["set"], str(row["sigma"]), *scores, *margins)
    console.print(table, results["summary"], results["harm"])


if __name__ == "__main__":
    main()
