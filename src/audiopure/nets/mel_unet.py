"""DiffSpec's network: a U-Net that estimates the noise in log-mel spectrograms (eq. 15, appendix A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.nets.unet import UNet


class MelUNet(nn.Module):
    """Noise estimator for spectrograms as rows of numbers, between -1 and 1 where the sound is ordinary.

    Args:
        frontend: `config` of the `LogMel` whose spectrograms it knows.
        low, high: dB that become -1 and 1; the paper's code has -100 and 38.22.
        network: arguments of `UNet`, the paper's by default.
        steps, beta_first, beta_last: the linear noise schedule that the weights belong to.
        latest: the noisiest of its steps that the network was trained on; by default the last.

    Shape: `forward(x (B, mels * frames), index (B,)) -> (B, mels * frames)`.
    """

    receptive_field = 0  # it sees all of a clip at once, and is not for pieces of one

    def __init__(
        self,
        *,
        frontend: Mapping[str, Any],
        low: float = -100.0,
        high: float = 38.22,
        network: Mapping[str, Any] | None = None,
        steps: int = 200,
        beta_first: float = 1e-4,
        beta_last: float = 0.02,
        latest: int | None = None,
    ):
        super().__init__()
        if not low < high:
            raise InputError(f"low ({low:g} dB) must be below high ({high:g} dB)")
        self.low, self.high = low, high
        self.mels = int(frontend["mel"]["n_mels"])
        self.latest = steps if latest is None else latest
        self.network = UNet(**(network or {}))
        self.config = {
            "frontend": dict(frontend),
            "low": low,
            "high": high,
            "network": self.network.config,
            "steps": steps,
            "beta_first": beta_first,
            "beta_last": beta_last,
            "latest": self.latest,
        }

    def forward(self, x: Tensor, index: Tensor, lengths: Tensor | None = None) -> Tensor:
        index = torch.as_tensor(index, device=x.device).expand(len(x))
        return self.network(x.unflatten(1, (self.mels, -1)), index).flatten(1)

    def scaled(self, decibel: Tensor) -> Tensor:
        """Log-mel spectrograms as `forward` takes them. Shape: (B, mels, frames) -> (B, mels * frames)."""
        return ((decibel - self.low) * (2 / (self.high - self.low)) - 1).flatten(1)

    def decibel(self, x: Tensor) -> Tensor:
        """The inverse of `scaled`. Shape: (B, mels * frames) -> (B, mels, frames)."""
        return ((x + 1) * ((self.high - self.low) / 2) + self.low).unflatten(1, (self.mels, -1))
