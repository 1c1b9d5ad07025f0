"""What is certified and how, as a user says it, and the smoothed classifier that this makes."""

from __future__ import annotations

import copy
import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from audiopure.certification import before
from audiopure.certification.bases import LocalSmoothing, MultiStep, OneShot, Plain
from audiopure.certification.claims import CertifyClaim
from audiopure.certification.draws import MOST
from audiopure.certification.embeddings import CertifyIdentity, Gallery
from audiopure.certification.laws import Gaussian, Laplace, Law, Response, Shaped
from audiopure.certification.procedures import Certify, CertifyScores, Procedure
from audiopure.certification.representations import Hears, representation
from audiopure.certification.scores import CHOICES
from audiopure.certification.smoothing import Smoothed
from audiopure.defended import Defended, Guarded
from audiopure.diffusion.denoiser import Denoiser
from audiopure.errors import InputError
from audiopure.noise import NoiseSource
from audiopure.purifier import Purifier
from audiopure.speakers import Identifier
from audiopure.systems import System
from audiopure.typed import validated


class CertifySettings(BaseModel):
    """The settings of a certification.

    Attributes:
        system: see `audiopure.systems`; a purifier in it gives the denoiser.
        data: folder of labelled audio; None for the clips that ship.
        object: what gets the noise, a name in `representations.REPRESENTATIONS`.
        noise: law of the smoothing noise: "gaussian" certifies L2, "laplace" L1, "shaped" an ellipsoid.
        sigma: its standard deviation, in units of the object.
        shape: of "shaped": "HZ:DB,HZ:DB,...", see `laws.Response`; white noise of this sigma has its power.
        denoise: what follows the noise, a name in `BASES`; None is "one-shot" behind a purifier, "as-is"
            behind other defences, and "none" without any. The chains of "multi-step" run at the clip's own
            level, whatever the purifier's level policy.
        steps, votes: of "multi-step"; of "local" `votes` are its versions.
        local: standard deviation of the noise of "local".
        before: steps before the noise, see `certification.before`.
        certificate: "cohen", "pair" (bounds every label's share), of mean probabilities "kl", "renyi" or
            "hockey-stick", or of mean embeddings, for enrolled speakers, "embedding" (who it is) and "claim"
            (whether it is `claim`).
        claim: the speaker that every clip claims to be; right is to accept those of the speaker alone.
        threshold: mean cosine with the claimed speaker's centroid from which on a claim is accepted.
        n0, n, alpha, tolerance: see `certification.procedures.Certify`.
        precision: "bf16" runs the base classifier in bfloat16: then that is what is certified.
        shard: (i, n), the i-th of n parts of the clips.
        rows: noisy versions that go through the base at once; changes speed and memory, not results. None
            leaves it to the device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    data: Path | None = None
    object: str = "waveform"
    noise: Literal["gaussian", "laplace", "shaped"] = "gaussian"
    shape: str = ""
    sigma: float = Field(default=0.25, ge=1e-6, allow_inf_nan=False)
    denoise: str | None = None
    steps: int = Field(default=5, ge=1)
    votes: int = Field(default=10, ge=1)
    local: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    before: str = ""
    certificate: Literal["cohen", "pair", "kl", "renyi", "hockey-stick", "embedding", "claim"] = "cohen"
    claim: str = ""
    threshold: float | None = Field(default=None, gt=-1, lt=1)
    n0: int = Field(default=100, ge=1, le=MOST)
    n: int = Field(default=10_000, ge=1, le=MOST)
    alpha: float = Field(default=0.001, ge=1e-9, lt=1)
    tolerance: float | None = Field(default=None, ge=0)
    limit: int = Field(default=100, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**64)
    precision: Literal["fp32", "bf16"] = "fp32"
    shard: tuple[int, int] | None = None
    device: str = "cpu"
    rows: int | None = Field(default=None, ge=1)

    @classmethod
    def of(cls, **given: object) -> CertifySettings:
        """From settings that a user gives: InputError where one cannot be."""
        return validated(cls, given)

    @property
    def command(self) -> str:
        """The shell command that repeats it, in a folder of its own."""
        words = ["audiopure", "certify", "--system", self.system]
        for name, value in self.changes.items():
            text = f"{value[0]}/{value[1]}" if isinstance(value, tuple) else str(value)
            words += [f"--{name}", text]
        return shlex.join(words)

    @property
    def call(self) -> str:
        """What repeats it for a model that has no name for the command line."""
        values = {k: str(v) if isinstance(v, Path) else v for k, v in self.changes.items()}
        words = [f"<{self.system}>", *(f"{name}={value!r}" for name, value in values.items())]
        return f"audiopure.certify({', '.join(words)})"

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the defaults, but for the system."""
        fields = type(self).model_fields
        return {k: v for k, v in self if k != "system" and v != fields[k].default}

    def procedure(self, recogniser: nn.Module) -> Procedure:
        """How a recogniser is certified; InputError where settings contradict each other."""
        if self.tolerance is not None and self.certificate not in OF_VOTES:
            raise InputError("tolerance: only certificates of votes (cohen, pair) can stop early.")
        if len({self.certificate == CLAIM, bool(self.claim), self.threshold is not None}) > 1:
            raise InputError("--certificate claim, --claim SPEAKER and --threshold COSINE go together.")
        if self.certificate in OF_EMBEDDINGS:
            speakers = _identifier(recogniser)
            centroids = speakers.centroids.double().cpu().numpy()
            if self.threshold is None:
                return CertifyIdentity(Gallery(centroids), self.n0, self.n, self.alpha)
            if self.claim not in speakers.labels:
                raise InputError(f"'{self.claim}' is not enrolled; there are: {', '.join(speakers.labels)}.")
            claimed = centroids[speakers.labels.index(self.claim)]
            return CertifyClaim(claimed, self.threshold, self.n, self.alpha)
        if self.certificate in CHOICES:
            return CertifyScores(self.certificate, self.n0, self.n, self.alpha)
        return Certify(self.n0, self.n, self.alpha, self.tolerance, pair=self.certificate == "pair")

    def law(self, sample_rate: int) -> Law:
        """Raises InputError for a shape without shaped noise, or of an object that has no spectrum."""
        if bool(self.shape) != (self.noise == "shaped"):
            raise InputError("shaped noise needs a shape, HZ:DB,HZ:DB, and no other noise has one.")
        if self.noise == "shaped":
            if self.object != "waveform":
                raise InputError(f"noise is shaped in the spectrum of a waveform, not of the {self.object}.")
            return Shaped(self.sigma, Response.of(self.shape, sample_rate))
        return Gaussian(self.sigma) if self.noise == "gaussian" else Laplace(self.sigma / 2**0.5)


def smoothed(settings: CertifySettings, system: System) -> Smoothed:
    """The smoothed classifier.

    Raises InputError for settings that do not fit the system.
    """
    law = settings.law(system.sample_rate)
    if settings.certificate in OF_EMBEDDINGS:
        encoder = _identifier(system.undefended).encoder
        if settings.object != "waveform" or (settings.denoise or _usual(system)) == "as-is":
            raise InputError(
                "a mean embedding is that of noisy waveforms, with a purifier before it or none."
            )
        model = system.model if system.defended else encoder
        system = dataclasses.replace(system, model=model, undefended=encoder)
    found = representation(settings.object, system.undefended)
    if settings.object == "waveform":
        name = settings.denoise or _usual(system)
        if name not in BASES:
            raise InputError(f"there is no way '{name}' to denoise; there are: {', '.join(BASES)}.")
        if name in VOTES and settings.certificate not in OF_VOTES:
            raise InputError(
                f"{name} counts votes, of which there is nothing to average: certify it with cohen or pair."
            )
        base = BASES[name](settings, system)
    else:
        if settings.denoise not in (None, "none"):
            raise InputError(f"a denoiser hears waveforms: nothing can denoise the {settings.object}.")
        if system.defended and settings.denoise is None:
            raise InputError(
                f"{system.spec}: what defends it hears waveforms, not the {settings.object}: certify the "
                "recogniser alone, --denoise none."
            )
        base = Hears(found)
    if settings.precision == "bf16":
        base = Reduced(base)
    return Smoothed(base.eval(), law, found, before.steps(settings.before))


class Reduced(nn.Module):
    """A base classifier whose matrix products are done in bfloat16."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def forward(self, noisy: Tensor, *, noise: NoiseSource) -> Tensor:
        with torch.autocast(noisy.device.type, torch.bfloat16):
            takes_noise = not isinstance(self.base, Hears)
            scores = self.base(noisy, noise=noise) if takes_noise else self.base(noisy)
        return scores.float()


def _identifier(recogniser: nn.Module) -> Identifier:
    if not isinstance(recogniser, Identifier):
        raise InputError(
            "certificates of mean embeddings are for enrolled speakers: resemblyzer,enrol=FOLDER."
        )
    return recogniser


def _usual(system: System) -> str:
    if not system.defended:
        return "none"
    return "one-shot" if _purifier(system) is not None else "as-is"


def _purifier(system: System) -> Purifier | None:
    """The system's purifier, if that is all its defence."""
    model = system.model
    alone = isinstance(model, Defended) and not isinstance(model.model, Guarded)
    return model.purifier if alone and isinstance(model.purifier, Purifier) else None


def _denoiser(settings: CertifySettings, system: System) -> Denoiser:
    purifier = _purifier(system)
    if purifier is None:
        raise InputError(
            f"{system.spec}: has no purifier to denoise with; write one, and only one, before the recogniser."
        )
    denoiser = purifier.denoiser
    if denoiser.sample_rate != system.sample_rate:
        raise InputError(
            f"the denoiser works at {denoiser.sample_rate} Hz and the model at {system.sample_rate} Hz: "
            "certify the model alone, or bring it to the denoiser's rate"
        )
    if settings.precision == "bf16" and hasattr(denoiser, "body_to"):
        # a copy: whoever gave the model keeps it in its own precision
        return copy.deepcopy(denoiser).body_to(torch.bfloat16)  # type: ignore[attr-defined]
    return denoiser


def _one_shot(settings: CertifySettings, system: System) -> OneShot:
    denoiser = _denoiser(settings, system)
    level = system.model.purifier.level  # type: ignore[union-attr]
    return OneShot(denoiser, system.undefended, settings.sigma, level=level)  # type: ignore[arg-type]


def _multi_step(settings: CertifySettings, system: System) -> MultiStep:
    denoiser = _denoiser(settings, system)
    return MultiStep(denoiser, system.undefended, settings.sigma, steps=settings.steps, votes=settings.votes)


def _local(settings: CertifySettings, system: System) -> LocalSmoothing:
    return LocalSmoothing(_one_shot(settings, system), count=settings.votes, local=settings.local)


OF_VOTES = ("cohen", "pair")  # certificates
CLAIM = "claim"
OF_EMBEDDINGS = ("embedding", CLAIM)
VOTES = ("multi-step", "local")  # whose scores are votes, not logits

# what follows the noise; a new way is one function and one line here
BASES: Mapping[str, Callable[[CertifySettings, System], nn.Module]] = {
    "none": lambda settings, system: Plain(system.undefended),
    "one-shot": _one_shot,
    "multi-step": _multi_step,
    "local": _local,
    "as-is": lambda settings, system: Plain(system.model),
}
