"""Batches of clips of unequal lengths: what lies beyond a clip is silence, before and after."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiopure.errors import InputError


def at_least(waveform: Tensor, samples: int) -> Tensor:
    """With zeros after what is shorter than so many samples. Shape: (..., T) -> (..., max(T, samples))."""
    return torch.nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[-1])))


def on_clips(
    waveform: Tensor, lengths: Tensor | None, change: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    """What `change` makes of waveforms of any leading shape and floating type.

    Args:
        waveform: (..., T).
        lengths: samples of each item, of the same leading shape; None for whole ones.
        change: of a batch (B, T), in float32 at least and silent beyond `lengths` (B,) or None, to (B, T).

    Shape: (..., T) -> (..., T), of the waveform's own type. Raises InputError for an empty or non-floating
    waveform, or a wrong number of lengths.
    """
    if not waveform.is_floating_point() or waveform.ndim == 0 or waveform.shape[-1] == 0:
        found = f"{waveform.dtype} {tuple(waveform.shape)}"
        raise InputError(f"expected a floating-point waveform (..., time), got {found}")
    flat = waveform.reshape(-1, waveform.shape[-1])
    x = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
    if lengths is None:
        return change(x, None).to(waveform.dtype).reshape(waveform.shape)
    x, lengths, beyond = silenced(x, lengths)
    return change(x, lengths).masked_fill(beyond, 0.0).to(waveform.dtype).reshape(waveform.shape)


def silenced(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch (B, T) with zeros beyond `lengths`, these as (B,) beside it, and where they end, (B, T).

    Raises InputError for a wrong number of lengths.
    """
    lengths = lengths.reshape(-1).to(x.device)
    if len(lengths) != len(x):
        raise InputError(f"{len(lengths)} lengths were given for {len(x)} waveforms")
    beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    return x.masked_fill(beyond, 0.0), lengths, beyond
