"""`audiopure train`: a recipe and a configuration to weights with a card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TextColumn

from audiopure.cli.console import duration, progress, say
from audiopure.cli.device import Device, Threads, prepare

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from audiopure.training.loop import Progress

TIMED = 5  # steps after which the whole cost is estimated; the first, which warms up, does not count


def train(
    recipe: Annotated[str, typer.Argument(help="What to train: see docs/train.md.")],
    config: Annotated[Path, typer.Option(help="Settings (TOML), as in recipes/.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; a run that is there is resumed.")],
    data: Annotated[Path | None, typer.Option(help="Folder of datasets; default: AUDIOPURE_DATA.")] = None,
    device: Device = "cpu",
    threads: Threads = None,
    tensorboard: Annotated[bool, typer.Option(help="Also write curves for TensorBoard.")] = False,
) -> None:
    """Train weights: writes model.safetensors, log.jsonl and config.toml. A killed run resumes.

    In several processes or machines: torchrun --nproc_per_node N -m audiopure train ...
    """
    prepare(device, threads)
    from audiopure import hub
    from audiopure.data.manifest import data_root
    from audiopure.training.board import Board
    from audiopure.training.run import run
    from audiopure.training.together import joined, team

    with (
        joined(device) as chosen,
        progress(TextColumn("{task.description}", markup=False)) as bar,
    ):
        reporter = Reporter(bar, output)
        board = Board(output / "tensorboard") if tensorboard and team().leads else None

        def report(made: Progress) -> None:
            reporter(made)
            if board is not None:
                board(made)

        path = run(recipe, config, data_root(data), output, device=chosen, report=report)
        leads = team().leads
    if leads:
        flat = hub.describe(path)["card"]["flattened"]
        say("The validation has flattened." if flat else "The validation has not flattened: train longer.")
        typer.echo(path)


class Reporter:
    """Tells what the loop reports: whether it resumed, what the run will cost, loss, validations."""

    def __init__(self, bar: Bar, folder: Path):
        self.bar = bar
        self.folder = folder
        self.first: tuple[int, float] | None = None
        self.task = bar.add_task("reading data", total=None)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (progress.step, now)
            if progress.step > 1:
                say(f"Resuming {self.folder} at step {progress.step - 1} of {progress.steps}.")
        step, began = self.first
        if progress.step == min(step + TIMED, progress.steps) and progress.step > step:
            rate = (now - began) / (progress.step - step)
            left = progress.steps - progress.step
            say(f"{left} more steps at {rate:.2g} s a step: about {duration(left * rate)}.")
        if progress.validation is not None:
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in progress.validation.items())
            say(f"step {progress.step}: {numbers}")
        description = f"step {progress.step}/{progress.steps} loss {progress.loss:.4f}"
        self.bar.update(self.task, total=progress.steps, completed=progress.step, description=description)
