"""What a user may name on the command line, each in one table from name to constructor."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from audiopure.errors import InputError

if TYPE_CHECKING:
    import torch


class Choice(NamedTuple):
    """A class by name, imported when chosen, and the arguments it is built with."""

    module: str
    name: str
    arguments: Mapping[str, Any] = {}

    def build(self) -> Any:
        return getattr(import_module(self.module), self.name)(**self.arguments)


_SAMPLERS = "audiopure.diffusion.samplers"
SAMPLERS: Mapping[str, Choice] = {
    "ddpm": Choice(_SAMPLERS, "Ddpm"),
    "ddpm-beta": Choice(_SAMPLERS, "Ddpm", {"variance": "beta"}),
    "sde": Choice(_SAMPLERS, "ReverseSde"),
    "sde-beta": Choice(_SAMPLERS, "ReverseSde", {"variance": "beta"}),
    "sde-continuous": Choice(_SAMPLERS, "ReverseSde", {"continuous": True}),
    "sde-continuous-beta": Choice(_SAMPLERS, "ReverseSde", {"continuous": True, "variance": "beta"}),
    "ddim": Choice(_SAMPLERS, "Ddim"),
    "ode": Choice(_SAMPLERS, "ProbabilityFlow"),
    "one-shot": Choice(_SAMPLERS, "OneShot"),
    "two-shot": Choice(_SAMPLERS, "FewShot", {"count": 2}),
}
LEVELS: Mapping[str, Choice] = {
    "speech": Choice("audiopure.level", "SpeechLevel"),
    "fixed": Choice("audiopure.level", "FixedLevel"),
}
PRECISIONS = ("fp32", "bf16")


def choose(what: str, table: Mapping[str, Choice], name: str) -> Any:
    """Build the entry `name` of `table`; InputError lists the names there are."""
    if name not in table:
        raise InputError(f"there is no {what} '{name}'; there are: {', '.join(table)}.")
    return table[name].build()


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
