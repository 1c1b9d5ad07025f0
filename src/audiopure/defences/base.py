"""What every defence on the waveform shares: what it takes, and that padding does not leak into a clip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.noise import NoiseSource, system_noise


class WaveformDefence(nn.Module):
    """A defence from waveform to waveform; subclasses say what becomes of a batch.

    Args:
        sample_rate: Hz of the waveforms.

    Attributes:
        random: whether two passes differ.
    """

    random = False

    def __init__(self, sample_rate: int = 16_000):
        super().__init__()
        self.sample_rate = sample_rate

    def forward(
        self, waveform: Tensor, *, lengths: Tensor | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """What lies beyond `lengths` (B,) stays zero, and a padded clip comes out as it would alone.

        Without `noise` a random defence draws from the operating system's.

        Shape: (..., T) -> (..., T); half types are worked on in float32. Raises InputError for an empty or
        non-floating waveform, or a wrong number of lengths.
        """
        if not waveform.is_floating_point() or waveform.ndim == 0 or waveform.shape[-1] == 0:
            found = f"{waveform.dtype} {tuple(waveform.shape)}"
            raise InputError(f"expected a floating-point waveform (..., time), got {found}")
        flat = waveform.reshape(-1, waveform.shape[-1])
        x = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
        source = noise or system_noise()
        if lengths is None:
            whole = torch.full((len(x),), x.shape[1], device=x.device)
            return self.changed(x, whole, source).to(waveform.dtype).reshape(waveform.shape)
        lengths = lengths.reshape(-1).to(x.device)
        if len(lengths) != len(x):
            raise InputError(f"{len(lengths)} lengths were given for {len(x)} waveforms")
        beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        changed = self.changed(x.masked_fill(beyond, 0.0), lengths, source).masked_fill(beyond, 0.0)
        return changed.to(waveform.dtype).reshape(waveform.shape)

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        """A batch (B, T), zero beyond `lengths` (B,), as the defence leaves it. Shape: -> (B, T)."""
        raise NotImplementedError


def each_length(x: Tensor, lengths: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What `change` makes of the clips of each length by themselves, for what looks at all of a clip.

    Args:
        change: of the numbers of some rows and their clips without padding.

    Shape: (B, T), (B,) -> (B, T), zero beyond `lengths`.
    """
    if bool((lengths == x.shape[1]).all()):
        return change(torch.arange(len(x), device=x.device), x)
    found = torch.zeros_like(x)
    for length in lengths.unique().tolist():
        rows = torch.nonzero(lengths == length)[:, 0]
        found[rows, :length] = change(rows, x[rows, :length])
    return found
