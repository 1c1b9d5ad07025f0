"""What every defence on the waveform shares: what it takes, and that padding does not leak into a clip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiopure.noise import NoiseSource, system_noise
from audiopure.padding import on_clips


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
        source = noise or system_noise()

        def change(x: Tensor, own: Tensor | None) -> Tensor:
            whole = torch.full((len(x),), x.shape[1], device=x.device) if own is None else own
            return self.changed(x, whole, source)

        return on_clips(waveform, lengths, change)

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
