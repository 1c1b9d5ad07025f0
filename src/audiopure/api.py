"""The three functions most people need: load a purifier, load a recogniser, purify a waveform."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from audiopure import hub
from audiopure.audio import resample
from audiopure.diffusion.denoiser import Denoiser, EpsDenoiser
from audiopure.diffusion.gradient import Gradient
from audiopure.diffusion.samplers import Sampler
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError, WeightsError
from audiopure.level import Level, SpeechLevel
from audiopure.noise import NoiseSource
from audiopure.purifier import Purifier

DEFAULT_PURIFIER = "small"


def load_purifier(
    name_or_path: str | Path = DEFAULT_PURIFIER,
    *,
    n_star: float = 3,
    sampler: Sampler | None = None,
    gradient: Gradient | None = None,
    level: Level | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Purifier:
    """A purifier from shipped weights ("small") or a safetensors file, on the CPU, in eval mode, frozen.

    Args:
        n_star: diffusion steps of the paper's schedule; more noise drowns larger perturbations and more
            speech.
        sampler: the reverse process; DDPM by default.
        gradient: how gradients pass; plain autograd by default.
        level: by default active speech is brought to a common level and restored (`SpeechLevel`). The
            constructor of `Purifier` has another default, the paper's `FixedLevel`.
        precision: of the matrix products of the compact purifier.

    Raises WeightsError if the weights cannot be used, InputError if a setting does not fit them.
    """
    facts = hub.describe(name_or_path)
    if facts["kind"] not in ("denoiser", "eps"):
        raise WeightsError(f"{facts['path']} holds a {facts['kind']}, not a purifier")
    denoiser, schedule = as_denoiser(hub.load(name_or_path), facts)
    if precision == "bf16":
        if not hasattr(denoiser, "body_to"):
            raise InputError(
                f"{facts['architecture']} has no bf16 form: it would lose accuracy and gain nothing"
            )
        denoiser.body_to(torch.bfloat16)  # type: ignore[operator]
    return Purifier(
        denoiser,
        n_star=n_star,
        schedule=schedule,
        sampler=sampler,
        gradient=gradient,
        level=level or SpeechLevel(),
    ).eval()


def as_denoiser(net: nn.Module, facts: dict[str, Any]) -> tuple[Denoiser, NoiseSchedule]:
    """A network that weights of these facts (`hub.describe`) are for as a denoiser, and its schedule.

    Raises WeightsError for a noise estimator whose schedule is missing or cannot be used.
    """
    if facts["kind"] == "denoiser":
        return cast(Denoiser, net), NoiseSchedule.linear()
    schedule = _trained_schedule(facts)
    return EpsDenoiser(net, schedule), schedule


def _trained_schedule(facts: dict[str, Any]) -> NoiseSchedule:
    """The schedule a noise estimator was trained on: it knows noise levels only by their step's number."""
    trained = facts["config"]
    try:
        return NoiseSchedule.linear(trained["beta_first"], trained["beta_last"], trained["steps"])
    except KeyError as error:
        raise WeightsError(
            f"{facts['path']} holds a noise estimator but its configuration lacks {error} of the schedule"
        ) from error
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{facts['path']} holds a schedule that cannot be used: {error}") from error


def load_recogniser(name_or_path: str | Path = "digits") -> nn.Module:
    """A recogniser: waveforms (B, T) to logits (B, labels), with `labels` and `sample_rate`.

    In eval mode and frozen. Takes a shipped name ("digits", "m5") or a safetensors file; WeightsError if it
    cannot be used.
    """
    return hub.load(name_or_path, kind="recogniser")


def purify(
    waveform: Tensor,
    sample_rate: int,
    *,
    purifier: Purifier | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Purify audio of any rate.

    Content above half the purifier's rate (8 kHz) is removed, never passed through.

    Args:
        waveform: (..., T) in [-1, 1], of a floating type; half types are worked on in float32.
        sample_rate: Hz.
        purifier: by default the shipped one at n_star = 3.
        noise: replayable noise; by default fresh noise from the operating system's entropy.

    Shape: (..., T) -> (..., T), at the same rate. Not differentiable across rates; `defend` is.
    Raises InputError for anything but a floating-point tensor, for an empty, non-finite or out-of-range
    waveform, one of less than a sample at the purifier's rate, or a rate that is not positive.
    """
    if not isinstance(waveform, Tensor):
        raise InputError(f"a waveform must be a torch tensor (..., time), got {type(waveform).__name__}")
    if not waveform.is_floating_point() or waveform.ndim == 0:
        found = f"{waveform.dtype} {tuple(waveform.shape)}"
        raise InputError(f"a waveform must be a floating-point tensor (..., time), got {found}")
    if waveform.numel() == 0 or not bool(torch.isfinite(waveform).all()):
        raise InputError("the waveform is empty or has samples that are not finite")
    if bool((waveform.abs() > 1.001).any()):
        raise InputError(f"samples must lie in [-1, 1]; the largest is {float(waveform.abs().max()):g}")
    purifier = purifier or load_purifier()
    length = waveform.shape[-1]
    with torch.no_grad():
        flat = waveform.detach().reshape(-1, length)
        flat = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
        working = resample(flat, sample_rate, purifier.sample_rate)
        if working.shape[-1] == 0:
            raise InputError(f"{length} samples at {sample_rate} Hz are too short to purify")
        clean = resample(purifier(working, noise=noise), purifier.sample_rate, sample_rate)
    clean = torch.nn.functional.pad(clean, (0, max(0, length - clean.shape[-1])))[:, :length]
    return clean.reshape(waveform.shape).to(waveform.dtype)
