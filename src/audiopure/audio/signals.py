"""Signals while C code calls back into Python."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

KINDS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """Within this context SIGINT and SIGTERM wait until its end if Python code handles them.

    A handler that raises inside a callback from C, as libsndfile makes for every read and write of a Python
    file, is lost: the C code swallows the exception and the program runs on.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers only ever run in that one
        yield
        return
    handlers = {kind: signal.getsignal(kind) for kind in KINDS}
    arrived: list[signal.Signals] = []
    for kind, handler in handlers.items():
        if callable(handler):
            signal.signal(kind, lambda number, _: arrived.append(signal.Signals(number)))
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            if callable(handler):
                signal.signal(kind, handler)
        for kind in arrived[:1]:
            signal.raise_signal(kind)
