"""Steps before the smoothing noise, which a certificate must survive.

If a clip passes through a step and only then gets its noise, what is certified is the step's output. It is
also a certificate for the clip itself if the step brings no two clips further apart in the certified norm of
the certified object: it must be 1-Lipschitz. Clipping is in L1 and L2 of the waveform, but not of its
spectrum, where it makes overtones; peak normalisation and resampling are not, and are refused here: whatever
they do for the recogniser they can do after the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from audiopure.certification.representations import Waveform
from audiopure.errors import InputError


@runtime_checkable
class Contraction(Protocol):
    """A step that brings no two clips further apart in some norms. To say so is a promise."""

    def contracts(self, norm: str, of: str) -> bool:
        """Whether it is 1-Lipschitz in a law's norm (`laws.Law.norm`) of an object, both by their names."""
        ...

    def __call__(self, waveform: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Clip:
    """Cut to [-1, 1]: samples of two clips move together. Filtered, or as spectra, they may move apart."""

    def contracts(self, norm: str, of: str) -> bool:
        return norm in ("L1", "L2") and of == Waveform.name

    def __call__(self, waveform: Tensor) -> Tensor:
        return waveform.clamp(-1, 1)


@dataclass(frozen=True)
class Attenuate:
    """A fixed gain of at most 1, which no norm can see grow, nor decibels above a floor.

    Raises InputError for a larger one.
    """

    gain: float

    def __post_init__(self) -> None:
        if not 0 <= self.gain <= 1:
            raise InputError(f"a gain of {self.gain:g} before the noise brings clips further apart")

    def contracts(self, norm: str, of: str) -> bool:
        return True

    def __call__(self, waveform: Tensor) -> Tensor:
        return self.gain * waveform


REFUSED: Mapping[str, str] = {
    "peak": "peak normalisation multiplies a quiet clip, and changes of it, by more than 1",
    "rms": "level normalisation multiplies a quiet clip, and changes of it, by more than 1",
    "resample": "a resampling filter raises the energy of some changes",
    "purify": "a purifier's network brings some clips further apart",
}


def steps(names: str) -> tuple[Contraction, ...]:
    """Steps by name, joined by commas: "clip", "gain=0.5".

    Raises InputError for steps that are not 1-Lipschitz, and for unknown ones.
    """
    found: list[Contraction] = []
    for word in filter(None, (part.strip() for part in names.split(","))):
        name, _, value = word.partition("=")
        if name == "clip" and not value:
            found.append(Clip())
        elif name == "gain" and value:
            try:
                found.append(Attenuate(float(value)))
            except ValueError as error:
                raise InputError(f"'{value}' is not a number") from error
        elif name in REFUSED:
            raise InputError(
                f"'{name}' cannot come before the noise: {REFUSED[name]}. Let it follow the noise."
            )
        else:
            raise InputError(f"there is no step '{word}' before the noise; there are: clip, gain=NUMBER.")
    return tuple(found)


def check(step: object, norm: str, of: str) -> Contraction:
    """The step, if it promises to be 1-Lipschitz in a law's norm of an object; InputError otherwise."""
    if not isinstance(step, Contraction) or not step.contracts(norm, of):
        name = type(step).__name__
        raise InputError(
            f"{name} is not known to be 1-Lipschitz in the certified norm ({norm} of the {of}), so that "
            "nothing would be certified of the clip itself: let it follow the noise"
        )
    return step
