"""What the machine is, for records of runs, and what it does with memory."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def processor() -> str:
    """The CPU's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
NEVER, LARGE = -1, 1 << 30  # bytes


def keep_memory() -> bool:
    """Keep the memory of tensors that are gone for those to come, in this process and from now on.

    By default glibc returns large blocks to the system and takes them anew, zeroed page by page, for each
    tensor: up to a third of the time of a batch on a CPU. Returns whether the C library could be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGE)) and bool(mallopt(TRIM_THRESHOLD, NEVER))


def settle() -> None:
    """What a process of ours has from its start: memory that is kept, no denormals, and one order of sums.

    Numbers below 1e-38 slow CPUs down a hundredfold and carry nothing. On Intel's CPUs matrix products would
    be rounded otherwise with each number of threads, so that a run that goes on with more processes would
    not end with the same numbers; told to, MKL keeps one order, at no cost that could be measured. Without
    effect once the process has multiplied matrices.
    """
    if "Intel" in processor():  # on others it might choose slower code
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

    import torch  # here, as commands that show their help do without it

    torch.set_flush_denormal(True)
    keep_memory()


def device_name(device: torch.device | str) -> str:
    """The name of the GPU, or of the processor."""
    import torch  # here, as commands that show their help do without it

    chosen = torch.device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else processor()
