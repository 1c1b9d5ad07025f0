"""Does each attack break an undefended recogniser? python benchmarks/attacks.py --data FOLDER [-o FILE]

Every row of `breaks.BREAKS` attacks validation clips of `sc09`. Its settings were found on test clips, and
its budget raised where these clips asked for more. Some rows also attack the recogniser behind the shipped
purifier, by the same budget. Resumable: rows that the output file already holds for the same weights, clips
and settings are not computed again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from breaks import BREAKS, Break
from common import machine, prepare, read_json, write_json
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from audiopure import hub, load_recogniser
from audiopure.attacks import Attack, Transfer, score
from audiopure.attacks.catalogue import ATTACKS, build_attack
from audiopure.data import data_root, load_dataset
from audiopure.evaluation.clips import Batch, batches, item_of, load_clips
from audiopure.evaluation.protocols import for_fixed
from audiopure.evaluation.quality import distances
from audiopure.evaluation.scoring import proportion
from audiopure.noise import SeededNoise
from audiopure.systems import load_system
from audiopure.training.surrogate import train_surrogate

LIMIT = 0.05  # an attack that leaves this share or more does not break the recogniser
PASSES = 10  # fresh ones that score a clip behind the purifier
MEASURES = ("snr", "l2", "linf", "above_mask")


class Job(NamedTuple):
    """A row of BREAKS, without a defence or behind the purifier."""

    key: str
    behind: bool

    @property
    def row(self) -> Break:
        return BREAKS[self.key]

    @property
    def table(self) -> str:
        return "behind" if self.behind else "rows"


@dataclass(frozen=True)
class Bench:
    """What every row shares, in any process."""

    root: Path
    recogniser: str
    purifier: str
    ai8x: Path | None
    surrogate: Path
    split: str
    seed: int
    clips: int
    behind_clips: int
    threads: int

    def settings(self) -> dict[str, Any]:
        """What rows of another run must have had to be kept."""
        named = {name: getattr(self, name) for name in ("recogniser", "purifier", "split", "seed")}
        weights = {name: hub.digest(named[name]) for name in ("recogniser", "purifier")}
        return named | {"set": "sc09", "weights_sha256": weights, "ai8x": self.ai8x and self.ai8x.name}

    def jobs(self) -> list[Job]:
        """Every row that can be measured."""
        here = [key for key, row in BREAKS.items() if row.victim == "digits" or self.ai8x]
        # DiffAttack has no undefended row: it follows a purifier
        alone = [Job(key, False) for key in here if BREAKS[key].attack != "diffattack"]
        return alone + [Job(key, True) for key in here if BREAKS[key].behind is not None]

    def request(self, job: Job) -> dict[str, Any]:
        """A row in what defines it, before it is measured."""
        row, count = job.row, self.behind_clips if job.behind else self.clips
        plain = {k: repr(v) if isinstance(v, Attack) else v for k, v in self._settings(job).items()}
        named = {"attack": row.attack, "victim": row.victim, "surrogate": row.surrogate}
        return named | {"settings": plain, "clips": min(count, row.clips or count)}

    def victim(self, job: Job) -> nn.Module:
        if job.row.victim == "ai8x":
            return load_system(f"ai8x,path={self.ai8x}").model
        if job.behind:
            return load_system(f"{self.purifier}+{self.recogniser}").model
        return load_recogniser(self.recogniser)

    def attack(self, job: Job, victim: nn.Module) -> Attack:
        settings = self._settings(job)
        if not job.row.surrogate:
            attack = build_attack(job.row.attack, **settings)
            return attack if job.behind else for_fixed(attack)
        stolen = job.row.surrogate == "stolen"
        surrogate = self.stolen() if stolen else victim
        attack = build_attack(job.row.attack, surrogate=surrogate, **settings)
        assert isinstance(attack, Transfer)
        return attack if stolen else attack.inner

    def _settings(self, job: Job) -> dict[str, Any]:
        return {**job.row.settings, **((job.row.behind or {}) if job.behind else {})}

    def stolen(self) -> nn.Module:
        """A surrogate taught by the undefended recogniser's answers to training clips; kept in its file."""
        if not self.surrogate.is_file():
            self.surrogate.parent.mkdir(parents=True, exist_ok=True)
            clips = load_dataset("sc09", self.root, "train")
            victim = load_recogniser(self.recogniser)
            train_surrogate(victim, clips, noise=SeededNoise(0), path=self.surrogate)
        return load_recogniser(str(self.surrogate))


def measure(bench: Bench, job: Job) -> dict[str, Any]:
    """One row."""
    prepare(bench.threads)
    request, victim = bench.request(job), bench.victim(job)
    attack = bench.attack(job, victim)
    bare = load_recogniser(bench.recogniser) if job.behind else victim
    clips = load_clips(bench.root / "sc09", bare, request["clips"], bench.seed, (bench.split,))
    if clips.split != bench.split:
        raise SystemExit(f"{bench.root}/sc09 has no {bench.split} clips")
    found: list[dict[str, Any]] = []
    rate: int = bare.sample_rate  # type: ignore[assignment]
    began = time.perf_counter()
    for batch in batches(clips, job.row.batch, at_least=rate):
        source = SeededNoise(bench.seed).fresh(item_of("/".join((job.table, job.key))))
        found += _attacked(attack, victim, batch, source.for_items(batch.items), rate, job.behind)
    seconds = (time.perf_counter() - began) / len(found)
    accuracy = {
        name: proportion(sum(clip[name] for clip in found), len(found)).model_dump()
        for name in ("clean", "attacked")
    }
    return {
        "request": request,
        "label": repr(attack),
        "budget": attack.budget,
        "cannot": job.row.cannot,
        **accuracy,
        "queries": round(statistics.mean(clip["queries"] for clip in found)),
        "median": {name: _median([clip[name] for clip in found]) for name in MEASURES},
        "seconds": round(seconds, 2),
    }


def _attacked(
    attack: Attack, victim: nn.Module, batch: Batch, noise: SeededNoise, rate: int, random: bool
) -> list[dict[str, Any]]:
    """What became of each clip of a batch: accuracies are shares of its fresh passes."""
    clean, labels, lengths = batch.waveform, batch.labels, batch.lengths
    result = attack(victim, clean, labels, noise=noise.fresh(0), lengths=lengths)
    heard = {
        name: score(
            victim, x, labels, noise=noise.fresh(1), passes=PASSES if random else 1, lengths=lengths
        ).float()
        for name, x in (("clean", clean), ("attacked", result.adversarial))
    }
    rows = []
    for row, length in enumerate(lengths.tolist()):
        far = distances(clean[row, :length], result.adversarial[row, :length], rate)
        shares = {name: float(right[row].mean()) for name, right in heard.items()}
        rows.append({name: far[name] for name in MEASURES} | shares | {"queries": int(result.queries[row])})
    return rows


def _median(values: list[float | None]) -> float | None:
    """Of the clips that were changed; None if none was."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 5) if known else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="folder of datasets; default: the variable AUDIOPURE_DATA")
    parser.add_argument("--recogniser", default="digits", help="shipped name or weights file")
    parser.add_argument("--purifier", default="small", help="shipped name or weights file")
    parser.add_argument("--ai8x", type=Path, help="weights of the recogniser that others made")
    parser.add_argument(
        "--surrogate",
        type=Path,
        default=Path("build/surrogate-digits.safetensors"),
        help="for transfer; made if it is not there",
    )
    parser.add_argument("--split", default="validation")
    parser.add_argument("--seed", type=int, default=2, help="of the choice of clips and of all noise")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--behind-clips", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=list(BREAKS), metavar="ROW", help="these rows alone")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/attacks.json"))
    return parser.parse_args()


def main() -> None:
    given = vars(arguments())
    out, only, processes = (given.pop(name) for name in ("out", "only", "processes"))
    bench = Bench(root=data_root(given.pop("data")), **given)
    if missing := set(ATTACKS) - {row.attack for row in BREAKS.values()}:
        raise SystemExit(f"breaks.py has no row for: {', '.join(missing)}")
    prepare(bench.threads)
    results = read_json(out)
    if results.get("settings") != bench.settings():
        results = {"settings": bench.settings(), "rows": {}, "behind": {}}
    results |= {"machine": machine(), "limit": LIMIT, "passes": PASSES}
    results["without"] = {key: row.cannot for key, row in BREAKS.items() if row.attack == "diffattack"}
    jobs = [job for job in bench.jobs() if job.key in (only or BREAKS)]
    todo = [j for j in jobs if results[j.table].get(j.key, {}).get("request") != bench.request(j)]
    spawn = multiprocessing.get_context("spawn")
    with Progress() as progress, ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        running = {pool.submit(measure, bench, job): job for job in todo}
        for future in progress.track(as_completed(running), total=len(todo), description="Attacks"):
            job = running[future]
            rows = results[job.table] | {job.key: future.result()}
            results[job.table] = {key: rows[key] for key in BREAKS if key in rows}
            write_json(out, results)
    write_json(out, results)
    show(results)


def show(results: Mapping[str, Any]) -> None:
    table = Table("attack", "budget", "left of", "clips", "queries", "SNR", "seconds a clip", "")
    for where in ("rows", "behind"):
        for key, row in results[where].items():
            left, clean = row["attacked"]["value"], row["clean"]["value"]
            verdict = "" if left < LIMIT or where == "behind" else row["cannot"] or "DOES NOT BREAK"
            counts = f"{100 * left:.1f} of {100 * clean:.1f} %"
            numbers = (row["clean"]["n"], row["queries"], row["median"]["snr"], row["seconds"])
            name = f"{key}, {where}" if where == "behind" else key
            table.add_row(name, row["budget"], counts, *map(str, numbers), verdict)
        table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
