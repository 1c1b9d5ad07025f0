"""What every defence on the waveform shares: what it takes, and that padding does not leak into a clip."""

from __future__ import annotations

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

        Shape: (..., T) -> (..., T). Raises InputError for an empty or non-floating waveform.
        """
        if not waveform.is_floating_point() or waveform.ndim == 0 or waveform.shape[-1] == 0:
            found = f"{waveform.dtype} {tuple(waveform.shape)}"
            raise InputError(f"expected a floating-point waveform (..., time), got {found}")
        x = waveform.reshape(-1, waveform.shape[-1])
        source = noise or system_noise()
        if lengths is None:
            whole = torch.full((len(x),), x.shape[1], device=x.device)
            return self.changed(x, whole, source).reshape(waveform.shape)
        lengths = lengths.reshape(-1).to(x.device)
        beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        changed = self.changed(x.masked_fill(beyond, 0.0), lengths, source)
        return changed.masked_fill(beyond, 0.0).reshape(waveform.shape)

    def changed(self, x: Tensor, lengths: Tensor, noise: NoiseSource) -> Tensor:
        """A batch (B, T), zero beyond `lengths` (B,), as the defence leaves it. Shape: -> (B, T)."""
        raise NotImplementedError
