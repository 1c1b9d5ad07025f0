"""A job's process: `audiopure` that also ends when whoever started it vanishes.

Without it, a run that goes on after a SIGKILL would meet its own forerunner in the same folder.
"""

from __future__ import annotations

import os
import sys
import threading
import time

LOOK = 0.2  # seconds between looks at whether the parent is still there


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def main() -> None:
    """First argument: the parent's process id; then those of `audiopure`."""
    threading.Thread(target=_end_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    from audiopure.cli.main import main as audiopure

    audiopure(sys.argv[2:])


if __name__ == "__main__":
    main()
