"""`audiopure convert`: the released DiffWave's checkpoints as safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from audiopure import __version__
from audiopure.cli.device import prepare
from audiopure.errors import InputError


def convert(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint (.pkl) of the released unconditional DiffWave.")
    ],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    dilation_cycle: Annotated[int, typer.Option(min=1, help="Blocks after which dilations repeat.")] = 12,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Convert a DiffWave checkpoint, without running code from it, for `audiopure purify --weights`."""
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: name the file to write .safetensors.")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; --overwrite replaces it.")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}.")
    prepare("cpu")
    from audiopure import hub
    from audiopure.nets.diffwave_checkpoint import load_diffwave

    net = load_diffwave(source, dilation_cycle)
    card = {
        "source": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "version": __version__,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "licence": "that of the source",
    }
    hub.save(net, target, kind="eps", card=card)
    typer.echo(target)
