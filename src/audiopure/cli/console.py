"""What commands say while they work, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

EVERY = 30.0  # seconds between lines of progress where there is no terminal


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


@contextmanager
def advancing(task: str, total: float) -> Iterator[Callable[[float], None]]:
    """A function that is told how much of `total` has just been done.

    On a terminal it moves a bar, elsewhere it prints a line now and then, both with the time left.
    """
    with progress() as bar:
        if not bar.disable:
            number = bar.add_task(task, total=total)
            yield lambda done: bar.advance(number, done)
            return
        yield Lines(task, total).advance


class Lines:
    """Progress in lines, at most one every `every` seconds."""

    def __init__(
        self,
        task: str,
        total: float,
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = say,
    ):
        self.task, self.total, self.every, self.clock, self.say = task, total, every, clock, say
        self.done, self.begin = 0.0, clock()
        self.last = self.begin

    def advance(self, done: float) -> None:
        self.done += done
        now = self.clock()
        if now - self.last < self.every or not 0 < self.done < self.total:
            return
        self.last = now
        left = (now - self.begin) * (self.total - self.done) / self.done
        self.say(f"{self.task}: {100 * self.done / self.total:.0f} %, about {duration(left)} left.")


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
