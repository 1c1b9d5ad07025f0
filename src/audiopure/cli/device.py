"""Options that commands share, and setting PyTorch up for a command's run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiopure.errors import InputError
from audiopure.machine import settle

if TYPE_CHECKING:
    import torch


Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
ThreadsEach = Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each CPU core.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of the choice of clips and all noise.")]
Shard = Annotated[str | None, typer.Option(help="i/n: only this share of the clips, for --merge later.")]
Merge = Annotated[
    list[Path] | None, typer.Option(help="Make one report of these folders of shards; repeat it.")
]


def prepare(device: str, threads: int | None = None) -> torch.device:
    """The device by name, with PyTorch set up for a command's run; InputError if it cannot be used."""
    import torch

    settle()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"the device '{device}' cannot be used ({reason}).") from error
    return chosen
