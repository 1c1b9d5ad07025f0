"""Several processes that train one network together, as `torchrun` starts them.

Every process prepares the same batch and takes its share of the rows; gradients and the running statistics of
normalisations are averaged after each step, so that all processes hold the same weights. The first one
validates and writes. Networks that normalise over the batch see their share of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.noise import SeededNoise

APART = 1 << 40  # numbers of the processes' noise, none that a recipe's own noise uses
PATIENCE = timedelta(hours=2)  # while the first process validates, the others wait


@dataclass(frozen=True)
class Team:
    """This process among `size`, counted from 0."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and reports."""
        return self.rank == 0

    def share(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """This process's rows of a batch; numbers stay whole.

        Raises InputError for a batch that cannot be shared equally.
        """
        if self.size == 1:
            return batch
        uneven = [len(part) for part in batch if part.ndim and len(part) % self.size]
        if uneven:
            raise InputError(f"a batch of {uneven[0]} cannot be shared equally by {self.size} processes")
        return tuple(part[self.rank :: self.size] if part.ndim else part for part in batch)

    def own(self, noise: SeededNoise) -> SeededNoise:
        """Noise of this process, as each attacks and purifies clips of its own; the first's is the given."""
        return noise if self.leads else noise.fresh(APART + self.rank)

    def average(self, model: nn.Module) -> None:
        """Gradients and floating-point buffers become their means over all processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        for tensors in (gradients, buffers):
            if tensors:
                flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
                dist.all_reduce(flat)
                parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
                for tensor, part in zip(tensors, parts, strict=True):
                    tensor.detach().copy_(part.view_as(tensor))

    def agreed(self, decision: bool) -> bool:
        """What the first process decides."""
        if self.size == 1:
            return decision
        flag = torch.tensor([float(decision)], device=_where())
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def team() -> Team:
    """The processes that were joined by `joined`, or this one alone."""
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()


@contextmanager
def joined(device: torch.device | str) -> Iterator[torch.device]:
    """Join the processes that `torchrun` has started, if it has. Gives this process's own device.

    Raises InputError if there are fewer GPUs than processes.
    """
    chosen = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield chosen
        return
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(f"there is no GPU for process {local}; there are {torch.cuda.device_count()}")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def _where() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
