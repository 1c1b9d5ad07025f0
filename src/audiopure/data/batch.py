"""Clips of different lengths in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audiopure.errors import InputError


def collate(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad clips with zeros at their end to the longest.

    Shape: B tensors (T_i,) -> batch (B, max T_i) of their dtype and device, lengths (B,) int64 on that
    device. Raises InputError for no clips, an empty clip, or one that is not one-dimensional.
    """
    if not clips:
        raise InputError("Cannot batch an empty list of clips.")
    for index, clip in enumerate(clips):
        if clip.ndim != 1 or clip.shape[0] == 0:
            raise InputError(f"Clip {index} of the batch has shape {tuple(clip.shape)}, not (time,).")
    lengths = torch.tensor([clip.shape[0] for clip in clips], device=clips[0].device)
    batch = clips[0].new_zeros(len(clips), int(lengths.max()))
    for row, clip in zip(batch, clips, strict=True):
        row[: clip.shape[0]] = clip
    return batch, lengths
