"""How much of an attack can be heard or measured: distances of an attacked clip from its clean one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiopure import metrics
from audiopure.audio import resample
from audiopure.errors import InputError, MissingExtraError
from audiopure.psychoacoustics import Masking, above_mask, masking_threshold

KEYS = ("snr", "l2", "linf", "above_mask", "stoi", "pesq")
PESQ_RATE = 16_000  # Hz of wide-band PESQ
PESQ_SECONDS = (0.25, 20.0)  # beyond, 50 utterances fit into a clip, which overrun a buffer of the library
STOI_SECONDS = 0.41  # 30 frames of 25.6 ms that overlap by half, as the library counts them
STOI_UNDEFINED = 1e-5  # what the library answers where fewer frames than that are not silent
MASKING_RATE = 4000  # the lowest at which the masking threshold is defined, Hz


def distances(
    clean: Tensor, other: Tensor, sample_rate: int, masking: Masking | None = None
) -> dict[str, float | None]:
    """Every distance of a clip from its clean version that can be told.

    Args:
        clean, other: (T,) in [-1, 1], at `sample_rate` Hz.
        masking: of the clean clip, where it is known already: the dearest part of it all.

    Returns:
        snr: dB, of the clip over the change. None if the clip is silent or nothing has changed.
        l2, linf: Euclidean length over the clip, and largest sample, of the change; full scale is 1.
        above_mask: dB by which the change rises above the clip's masking threshold (Qin et al. 2019). None if
            the clip is silent or its rate below 4 kHz.
        stoi: short-time objective intelligibility (Taal et al. 2011), at most 1. None if the clip has less
            than 0.41 s that is not silent, or pystoi is not installed.
        pesq: wide-band PESQ (ITU-T P.862.2), 1.0 to 4.64; clips at another rate than 16 kHz are resampled to
            it. None if the clip is shorter than 0.25 s or longer than 20 s (the library crashes on some),
            holds nothing that PESQ takes for speech, or pesq is not installed.

    Raises InputError for clips of another shape, or samples that are not finite.
    """
    if clean.ndim != 1 or not bool(torch.isfinite(clean).all() and torch.isfinite(other).all()):
        raise InputError("distances need one clip of finite samples (time,) and its clean version")
    clean, other = clean.detach().cpu(), other.detach().cpu()
    values = {
        "snr": _finite(metrics.snr(other, clean)),
        "l2": _finite(metrics.l2(other, clean)),
        "linf": _finite(metrics.linf(other, clean)),
        "above_mask": _above_mask(clean, other, sample_rate, masking),
    }
    for name, measure in (("stoi", stoi), ("pesq", pesq)):
        try:
            values[name] = measure(clean, other, sample_rate)
        except MissingExtraError:
            values[name] = None
    return values


def stoi(clean: Tensor, other: Tensor, sample_rate: int) -> float | None:
    """Short-time objective intelligibility by pystoi; None where `distances` says so.

    Shape: (T,), (T,). Raises MissingExtraError without pystoi.
    """
    measure: Callable[..., Any] = _library("pystoi").stoi
    if len(clean) < STOI_SECONDS * sample_rate or not bool(clean.any()):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(measure(_double(clean), _double(other), sample_rate))
    return None if value == STOI_UNDEFINED else _finite(value)


def pesq(clean: Tensor, other: Tensor, sample_rate: int) -> float | None:
    """Wide-band PESQ by the library of that name; None where `distances` says so.

    Shape: (T,), (T,). Raises MissingExtraError without pesq.
    """
    library = _library("pesq")
    shortest, longest = PESQ_SECONDS
    if not shortest <= len(clean) / sample_rate <= longest or not bool(clean.any() and other.any()):
        return None
    pair = [_double(resample(x.double(), sample_rate, PESQ_RATE)) for x in (clean, other)]
    try:
        return _finite(library.pesq(PESQ_RATE, *pair, "wb"))
    except (library.PesqError, ValueError):  # nothing that it takes for speech; a level of zero in between
        return None


def masking_of(clean: Tensor, sample_rate: int) -> Masking | None:
    """The masking threshold of a clip (T,); None where `distances` has no `above_mask`."""
    if sample_rate < MASKING_RATE or not bool(clean.any()):
        return None
    return masking_threshold(clean[None], sample_rate)


def _above_mask(clean: Tensor, other: Tensor, sample_rate: int, masking: Masking | None) -> float | None:
    masking = masking or masking_of(clean, sample_rate)
    return None if masking is None else _finite(above_mask((other - clean)[None], masking))


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"this measure needs {name}: pip install 'audiopure[quality]'") from error


def _double(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _finite(value: Tensor | float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
