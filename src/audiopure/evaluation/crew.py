"""Worker processes that share a run's units, do not outlive their parent, nor leave it waiting."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
from torch.multiprocessing import get_context

from audiopure.errors import AudiopureError
from audiopure.machine import settle

PATIENCE = 0.2  # seconds between looks at how the processes are


class Work(Protocol):
    """A long run that can be done in parts."""

    @property
    def units(self) -> Sequence[Any]:
        """What there is to do, in the order in which it shall be begun."""
        ...

    def do(self, unit: Any, tick: Callable[..., None]) -> None:
        """Do what is missing of a unit; `tick` is told in picklable words what has been done."""
        ...


def share(
    prepare: Callable[[], Work],
    *,
    units: int,
    workers: int,
    threads: int,
    tick: Callable[..., None],
) -> None:
    """Do all units of a run in several processes; whoever is free takes the next.

    However this ends, by an error, Ctrl-C or SIGTERM, no process is left, and each also ends if its parent
    vanishes. What they have finished is on the disk.

    Args:
        prepare: picklable; makes the run anew in each process.
        tick: gets what the processes tell, in this process.

    Raises AudiopureError with what a process reports, or if one ends before its time.
    """
    context = get_context("spawn")
    messages, taken = context.SimpleQueue(), context.Value("q", 0)
    crew: list[BaseProcess] = []
    try:
        with _deaf_to_interrupts():
            for _ in range(min(workers, units)):
                arguments = (prepare, threads, units, taken, messages)
                crew.append(context.Process(target=_work, args=arguments, daemon=True))
                crew[-1].start()
        while any(process.exitcode is None for process in crew):
            connection.wait([p.sentinel for p in crew if p.exitcode is None], timeout=PATIENCE)
            _listen(messages, tick)
            for process in crew:
                if process.exitcode not in (None, 0):
                    _listen(messages, tick)  # it says why before it ends
                    raise AudiopureError(
                        f"a worker process ended before its time ({_reason(process.exitcode)}); what was "
                        "done is kept, and the same command goes on from there."
                    )
        _listen(messages, tick)
    finally:
        started = [process for process in crew if process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()


def _listen(messages: Any, tick: Callable[..., None]) -> None:
    while not messages.empty():
        message = messages.get()
        if isinstance(message, str):
            raise AudiopureError(message)
        tick(*message)


def _reason(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    killed = ", perhaps for want of memory: fewer --workers take less" if -code == 9 else ""
    return f"{signal.Signals(-code).name}{killed}"


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in here ignore Ctrl-C from their first moment: their parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(prepare: Callable[[], Work], threads: int, units: int, taken: Any, messages: Any) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settle()
    torch.set_num_threads(threads)
    try:
        work = prepare()
        while (number := _next(taken)) < units:
            work.do(work.units[number], lambda *done: messages.put(done))
    except (AudiopureError, OSError) as error:
        messages.put(str(error))
        sys.exit(1)


def _next(taken: Any) -> int:
    with taken.get_lock():
        taken.value += 1
        return taken.value - 1


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
