"""`audiopure tune`: how much noise a model and its data bear."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.atomic import write_text
from audiopure.cli.console import duration, progress, say
from audiopure.cli.device import Device, Seed, Threads, prepare
from audiopure.cli.output import check_output
from audiopure.errors import InputError

if TYPE_CHECKING:
    from audiopure.evaluation.tune import Tune, Tuning


def tune(
    data: Annotated[
        str, typer.Option(help="Folder of labelled audio, or a dataset by name; its validation split if any.")
    ],
    loss: Annotated[
        float, typer.Option(min=0, max=100, help="Loss of clean accuracy that you accept, in points.")
    ],
    system: Annotated[str, typer.Option(help="A purifier and the recogniser behind it.")] = "small+digits",
    clips: Annotated[int, typer.Option(min=0, help="Clips, equal over labels; 0: all.")] = 200,
    n_star: Annotated[str, typer.Option(help="Noise levels to try.")] = "1,2,3,5,7,10",
    passes: Annotated[int, typer.Option(min=1, help="Fresh passes of each clip.")] = 5,
    attacked: Annotated[bool, typer.Option(help="Attack each level, and recommend the most robust.")] = False,
    attack_clips: Annotated[int, typer.Option(min=1, help="Clips that are attacked.")] = 20,
    norm: Annotated[str, typer.Option(help="Of the attack: linf or l2.")] = "linf",
    eps: Annotated[float | None, typer.Option(help="Of the attack; by default the paper's budget.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
    report: Annotated[Path | None, typer.Option("--json", help="File that gets the results.")] = None,
) -> None:
    """Find the noise level n* for your model and data at a stated loss of clean accuracy.

    Larger n* remove larger perturbations and more of the sound. Without --attacked the largest level within
    the loss is recommended.
    """
    levels = _levels(n_star)
    if norm not in ("linf", "l2"):
        raise InputError(f"there is no norm '{norm}' to attack in; there are: linf, l2.")
    check_output(report, overwrite)
    chosen = prepare(device, threads)
    from audiopure.evaluation.tune import Tune, TuneConfig, short_pgd

    config = TuneConfig(
        system=system,
        data=data,
        loss=loss / 100,
        levels=levels,
        clips=clips or None,
        passes=passes,
        attack=short_pgd(norm, eps) if attacked else None,  # type: ignore[arg-type]
        attack_clips=attack_clips,
        seed=seed,
    )
    found = _run(Tune(config, chosen))
    if report is not None:
        write_text(report, found.model_dump_json(by_alias=True, indent=1) + "\n")
    _show(found)


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--n-star {text}: write levels as numbers with commas between, as in 1,2,3."
        ) from error


def _run(work: Tune) -> Tuning:
    costs = work.plan()
    total, config = sum(costs.values()), work.config
    attack = "" if config.attack is None else f", attacked on up to {config.attack_clips}"
    say(
        f"{len(work.clips.targets)} clips, {len(costs)} noise levels, {config.passes} passes{attack}: "
        f"about {duration(total)}."
    )
    with progress() as bar:
        task = bar.add_task("", total=total)

        def report(n_star: float, share: float) -> None:
            bar.update(task, description=f"n* = {n_star:g}")
            bar.advance(task, share * costs[n_star])

        return work.run(report)


def _show(found: Tuning) -> None:
    from rich.console import Console

    from audiopure.evaluation.tune_results import rich_table, sentences

    console = Console(file=sys.stdout, highlight=False)
    console.print(rich_table(found))
    for sentence in sentences(found):
        console.print(sentence, markup=False, soft_wrap=True)
