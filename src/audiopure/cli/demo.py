"""`audiopure demo`: the shipped digits attacked without a defence, behind noise, and behind the purifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from audiopure.atomic import write_text
from audiopure.cli.console import duration, progress, say
from audiopure.cli.device import Seed, Threads, prepare
from audiopure.errors import InputError

if TYPE_CHECKING:
    from audiopure.evaluation.demo.experiment import Demo
    from audiopure.evaluation.demo.results import DemoResults


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled audio; its test split if it has one. By default shipped clips."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that gets page and results.")] = Path(
        "audiopure-demo"
    ),
    clips: Annotated[int, typer.Option(min=1, help="Clips, equal over labels.")] = 30,
    steps: Annotated[int, typer.Option(min=1, help="PGD steps.")] = 15,
    eot: Annotated[int, typer.Option(min=1, help="Draws that each gradient averages.")] = 2,
    passes: Annotated[int, typer.Option(min=1, help="Fresh passes that score each clip.")] = 10,
    seed: Seed = 0,
    recogniser: Annotated[str, typer.Option(help="Shipped name or safetensors file.")] = "digits",
    purifier: Annotated[str, typer.Option(help="Shipped name or safetensors file.")] = "small",
    n_star: Annotated[float, typer.Option(help="Diffusion steps of the purifier.")] = 3,
    examples: Annotated[int, typer.Option(min=0, help="Clips to listen to on the page.")] = 8,
    threads: Threads = None,
) -> None:
    """Attack a recogniser, attack it behind a purifier, and listen: one table, one page.

    Writes index.html (self-contained), results.json and table.md.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file, not a folder to write to.")
    prepare("cpu", threads)
    from audiopure.evaluation.demo.experiment import Demo, DemoConfig

    settings = {
        "data": data,
        "clips": clips,
        "steps": steps,
        "eot": eot,
        "passes": passes,
        "seed": seed,
        "recogniser": recogniser,
        "purifier": purifier,
        "n_star": n_star,
        "examples": examples,
    }
    try:
        config = DemoConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}.") from error
    work = Demo.prepare(config)
    results = _run(work)
    _write(work, results, output)
    _show(results, output)


def _run(work: Demo) -> DemoResults:
    costs = work.plan()
    total = sum(costs.values())
    config, count = work.config, len(work.clips.targets)
    say(
        f"{count} clips, PGD-{config.steps} with EOT {config.eot} in two norms against {len(costs)} systems, "
        f"{config.passes} passes a clip: about {duration(total)}."
    )
    announced: set[str] = set()
    with progress() as bar:
        task = bar.add_task("", total=total)

        def report(key: str, share: float) -> None:
            if key not in announced:
                announced.add(key)
                title = next(system.title for system in work.systems if system.key == key)
                bar.update(task, description=f"Attacking: {title}")
                if bar.disable:
                    left = sum(cost for k, cost in costs.items() if k not in announced or k == key)
                    say(f"Attacking: {title} (about {duration(left)} left)")
            bar.advance(task, share * costs[key])

        return work.run(report)


def _write(work: Demo, results: DemoResults, folder: Path) -> None:
    from audiopure.evaluation.demo.page import render
    from audiopure.evaluation.demo.table import markdown

    files = {
        "results.json": results.model_dump_json(by_alias=True, indent=1) + "\n",
        "table.md": markdown(results),
        "index.html": render(work, results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text(folder / name, text)


def _show(results: DemoResults, folder: Path) -> None:
    from rich.console import Console

    from audiopure.evaluation.demo.table import notes, rich_table

    console = Console(file=sys.stdout, highlight=False)
    console.print(rich_table(results))
    for note in notes(results):
        console.print(note, style="dim", markup=False)
    page = (folder / "index.html").resolve()
    console.print(f"\nTook {duration(results.seconds)}. Listen: {page}", soft_wrap=True, markup=False)
