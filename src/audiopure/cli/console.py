"""What commands say while they work, always on standard error."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def say(sentence: str) -> None:
    """Print a line as it is, without wrapping or markup."""
    print(sentence, file=sys.stderr, flush=True)


def progress(*columns: ProgressColumn | str) -> Progress:
    """A bar with `columns` before the time left; invisible unless standard error is a terminal."""
    shown = columns or (TextColumn("{task.description}", markup=False),)
    console = Console(stderr=True)
    return Progress(
        *shown,
        BarColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def duration(seconds: float) -> str:
    """Time in two units at most: "12 s", "3 min 20 s", "2 h 5 min".

    >>> duration(7500)
    '2 h 5 min'
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
