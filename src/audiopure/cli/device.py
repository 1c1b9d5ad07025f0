"""Setting PyTorch up for a command's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiopure.errors import InputError

if TYPE_CHECKING:
    import torch


def prepare(device: str, threads: int | None = None) -> torch.device:
    """The device by name, with PyTorch set up for a command's run; InputError if it cannot be used."""
    import torch

    # numbers below 1e-38 slow CPUs down a hundredfold and carry nothing
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"the device '{device}' cannot be used ({reason}).") from error
    return chosen
