"""What protocols are made of: stages of attacks, sweeps over one setting, and what attacks are built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from audiopure.attacks import Attack, Pgd

BATCH = 10  # clips attacked together: EOT draws fill the rest of what goes through the model at once


@dataclass(frozen=True)
class Context:
    """What an attack may need of the system it is built for.

    Attributes:
        surrogate: loads the surrogate trained on the system's outputs.
        sample_rate: Hz of the clips.
    """

    surrogate: Callable[[], nn.Module]
    sample_rate: int


Build = Attack | Callable[[Context], Attack]

UNATTACKED = "unattacked"  # key of a stage that draws as often as attacks do, of nothing
STILL = f"{UNATTACKED}/linf"  # and its condition: no attack has a norm, the first column stands for both


@dataclass(frozen=True)
class Stage:
    """One attack in each of its columns.

    Attributes:
        counts: it enters the headline.
        controls: it also runs on the rows that stand beside the system.
        clips: only the first so many, None for all.
        survivors: only on clips that counting stages before it, in the same column, left right in some pass.
        note: what must be said with its numbers.
    """

    key: str
    title: str
    attacks: Mapping[str, Build]
    counts: bool = True
    controls: bool = False
    clips: int | None = None
    survivors: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Sweep:
    """Accuracy of the system against one setting of an attack, on the first few clips.

    Attributes:
        axis: "budget" (multiples of the attack's eps), "eot", or "n_star".
        n_star: of the system's purifiers, if another than theirs.
    """

    axis: str
    values: tuple[float, ...]
    attacks: Mapping[str, Pgd]
    clips: int
    n_star: float | None = None


@dataclass(frozen=True)
class Protocol:
    """Stages and sweeps, and `passes`, the fresh passes that score a clip of a randomised system."""

    name: str
    passes: int
    stages: tuple[Stage, ...]
    sweeps: tuple[Sweep, ...] = ()
    note: str | None = None

    def without_surrogate(self) -> Protocol:
        """The protocol without attacks that need the system's surrogate, which it says."""
        stages = tuple(s for s in self.stages if all(isinstance(a, Attack) for a in s.attacks.values()))
        if len(stages) == len(self.stages):
            return self
        sentence = "No transfer attack: it takes a system at 16 kHz and a training split with all its labels."
        note = sentence if self.note is None else f"{self.note} {sentence}"
        return replace(self, stages=stages, note=note)

    def settings(self) -> dict[str, Any]:
        """What the card says of it."""
        return {"passes": self.passes, "stages": [stage.key for stage in self.stages], "batch": BATCH}
