"""What all benchmarks share: atomic JSON, a description of the machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

import audiopure
from audiopure.machine import processor


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write so that a reader sees the old file or the new one, never half of either.

    The command goes in as `command`; a run for the documents names its data by AUDIOPURE_DATA, so that no
    path of one machine is in it.
    """
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    results = results | {"command": shlex.join(words)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """What an interrupted run left, or nothing."""
    return json.loads(path.read_text()) if path.is_file() else {}


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a timing or a rounding error depends on."""
    on_cuda = torch.device(device).type == "cuda"
    return {
        "audiopure": audiopure.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_cuda else processor(),
        "threads": torch.get_num_threads(),
    }


def prepare(threads: int) -> None:
    """Set the number of threads, and flush denormals: sounds that decay to silence are slow with them."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
