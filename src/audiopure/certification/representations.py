"""What is certified: the waveform, or what a recogniser computes of it on the way.

Noise may be added at any of these. The certificate is then about changes of that object, in its own units,
and what comes after the noise is part of the base classifier. A certificate at a spectrogram says nothing
about the waveform unless the way from one to the other is known to stretch distances by no more than some
factor; `Magnitude.waveform_radius` has one, which `implied` names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.frontend import LogMel, Spectrogram

WAVEFORM = "waveform L2"  # among the radii that follow from another object's


class Representation(Protocol):
    """An object that noise may be added to."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str:
        """Of each of its numbers, and so of a radius."""
        ...

    def encode(self, waveform: Tensor) -> Tensor:
        """The object of each waveform, before the noise. Shape: (B, T) -> (B, ...)."""
        ...

    def implied(self, radius: float) -> Mapping[str, float]:
        """Radii of other objects, named with their norm, that follow from an L2 radius of this one."""
        ...


@dataclass(frozen=True)
class Waveform:
    """Samples relative to full scale."""

    name = "waveform"
    unit = "full scale"

    def encode(self, waveform: Tensor) -> Tensor:
        return waveform

    def implied(self, radius: float) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True, eq=False)
class Magnitude:
    """Magnitudes of a recogniser's short-time spectrum. Negative noisy values count as 0."""

    recogniser: nn.Module
    name = "spectrogram"
    unit = "magnitude of a bin"

    def encode(self, waveform: Tensor) -> Tensor:
        transform = self._spectrogram
        return transform(_padded(self.recogniser, waveform)) ** (1 / transform.power)

    def decode(self, noisy: Tensor) -> Tensor:
        front = _front(self.recogniser)
        return front.decibel(front.mel.sum(noisy.relu() ** self._spectrogram.power))

    def implied(self, radius: float) -> Mapping[str, float]:
        """The waveform's, where there is one."""
        known = self._spectrogram.pad_mode == "constant"
        return {WAVEFORM: self.waveform_radius(radius)} if known else {}

    def waveform_radius(self, radius: float) -> float:
        """The L2 radius for the waveform that follows from one for the magnitudes.

        Magnitudes differ by no more than spectra. The bins of a frame up to the Nyquist frequency hold at
        most n_fft times its energy, and a sample enters frames with squared window weights that add up to
        at most S: the map stretches distances by at most sqrt(n_fft S).

        Raises InputError for a front end that repeats the ends of a clip, where more frames hear a sample.
        """
        transform = self._spectrogram
        if transform.pad_mode != "constant":
            raise InputError("a front end that repeats the clip's ends has no waveform radius here")
        squares = transform.window.double().square()
        hop = transform.hop
        most = max(float(squares[k::hop].sum()) for k in range(min(hop, len(squares))))
        return radius / math.sqrt(transform.n_fft * most)

    @property
    def _spectrogram(self) -> Spectrogram:
        return _front(self.recogniser).mel.spectrogram


@dataclass(frozen=True, eq=False)
class Filterbank:
    """Energies under a recogniser's mel filters, relative to `SPEECH`. Negative noisy values count as 0."""

    recogniser: nn.Module
    name = "filterbank"
    unit = "energy of speech in a mel band"

    SPEECH = 0.1  # what speech has in a band of these front ends, -10 dB

    def encode(self, waveform: Tensor) -> Tensor:
        return _front(self.recogniser).mel(_padded(self.recogniser, waveform)) / self.SPEECH

    def decode(self, noisy: Tensor) -> Tensor:
        return _front(self.recogniser).decibel(noisy.relu() * self.SPEECH)

    def implied(self, radius: float) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True, eq=False)
class LogMelSpectrogram:
    """A recogniser's log-mel spectrogram."""

    recogniser: nn.Module
    name = "log-mel"
    unit = "dB"

    def encode(self, waveform: Tensor) -> Tensor:
        return _front(self.recogniser)(_padded(self.recogniser, waveform))

    def decode(self, noisy: Tensor) -> Tensor:
        return noisy

    def implied(self, radius: float) -> Mapping[str, float]:
        return {}


class Hears(nn.Module):
    """The base classifier of a representation other than the waveform: what is left of the recogniser.

    Shape: noisy objects (n, ...) -> (n, C).
    """

    def __init__(self, representation: Magnitude | Filterbank | LogMelSpectrogram):
        super().__init__()
        self.recogniser = representation.recogniser
        self.decode = representation.decode

    def forward(self, noisy: Tensor) -> Tensor:
        return self.recogniser.from_log_mel(self.decode(noisy))  # type: ignore[operator]


# a new representation is one class and one line here
REPRESENTATIONS: Mapping[str, Callable[[nn.Module], Any]] = {
    "waveform": lambda recogniser: Waveform(),
    "spectrogram": Magnitude,
    "filterbank": Filterbank,
    "log-mel": LogMelSpectrogram,
}


def representation(name: str, recogniser: nn.Module) -> Any:
    """The object `name` of a recogniser.

    Raises InputError for an unknown name, or a recogniser without such an object.
    """
    if name not in REPRESENTATIONS:
        raise InputError(f"there is no object '{name}'; there are: {', '.join(REPRESENTATIONS)}.")
    if name != "waveform":
        _front(recogniser)
    return REPRESENTATIONS[name](recogniser)


def _front(recogniser: nn.Module) -> LogMel:
    front = getattr(recogniser, "frontend", None)
    parts = isinstance(front, LogMel), hasattr(recogniser, "from_log_mel"), hasattr(recogniser, "padded")
    if not all(parts):
        raise InputError(
            f"{type(recogniser).__name__} has no log-mel front end (frontend, padded, from_log_mel): "
            "only its waveform can be certified."
        )
    return front  # type: ignore[return-value]


def _padded(recogniser: nn.Module, waveform: Tensor) -> Tensor:
    return recogniser.padded(waveform)  # type: ignore[operator]
