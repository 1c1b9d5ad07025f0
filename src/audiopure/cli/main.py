"""The command line: `audiopure COMMAND`. Errors a user can act on are one sentence and exit status 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from audiopure import __version__
from audiopure.errors import AudiopureError

# command -> module with a function of that name, which imports PyTorch only when it is called;
# a new command is one file and one line here
COMMANDS: Mapping[str, str] = {
    "demo": "audiopure.cli.demo",
    "purify": "audiopure.cli.purify",
    "attack": "audiopure.cli.attack",
    "evaluate": "audiopure.cli.evaluate",
    "certify": "audiopure.cli.certify",
    "envelope": "audiopure.cli.envelope",
    "reproduce": "audiopure.cli.reproduce",
    "audit": "audiopure.cli.audit",
    "compare": "audiopure.cli.compare",
    "tune": "audiopure.cli.tune",
    "info": "audiopure.cli.info",
    "train": "audiopure.cli.train",
    "convert": "audiopure.cli.convert",
}
INTERRUPTED, TERMINATED = 130, 143


class LazyGroup(TyperGroup):
    """Imports a command's module when the command is named."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(COMMANDS[cmd_name]), cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"audiopure {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Diffusion purification: audio in, audio without adversarial perturbations out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves by SystemExit with status 0, 1 or 2, or 128 plus a signal's number."""
    # an ordinary exit removes half-written files; a signal's default action does not
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        app(args=arguments, prog_name="audiopure")
    except AudiopureError as error:
        _fail(str(error))
    except BrokenPipeError:
        _fail("the program that reads the output has closed it.")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(sentence: str) -> None:
    print(f"audiopure: {sentence}", file=sys.stderr)
    sys.exit(2)
