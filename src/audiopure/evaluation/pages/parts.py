"""What every page is made of: the templates, and sounds with their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import jinja2
from torch import Tensor

from audiopure.evaluation.pages.plots import spectrogram_uri, wav_uri, waveform_path


def template(name: str) -> jinja2.Template:
    """A template of this package, which escapes what it prints and fails on names it does not know."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audiopure.evaluation.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


@dataclass(frozen=True)
class Sound:
    """One playable sound of a page and what is said under it.

    Attributes:
        heard: label that the recogniser answers, None where it is not asked.
        confidence: its probability of that label in percent, None where nobody kept it.
        right: whether that is the clip's label.
        facts: short statements for the caption.
    """

    name: str
    audio: str
    picture: str
    path: str
    heard: str | None
    confidence: int | None
    right: bool
    facts: tuple[str, ...]

    @classmethod
    def of(
        cls,
        waveform: Tensor,
        sample_rate: int,
        *,
        reference: float,
        peak: float,
        name: str,
        heard: str | None,
        confidence: int | None,
        right: bool,
        facts: tuple[str, ...],
    ) -> Self:
        """The sound of a waveform (T,) in [-1, 1].

        Args:
            reference: dB of the spectrogram's brightest colour.
            peak: amplitude that fills the picture of the waveform.
        """
        return cls(
            name=name,
            audio=wav_uri(waveform, sample_rate),
            picture=spectrogram_uri(waveform, reference),
            path=waveform_path(waveform, peak),
            heard=heard,
            confidence=confidence,
            right=right,
            facts=facts,
        )
