"""Recipe `spectrum`: DiffSpec's network, trained on log-mel spectrograms as DDPM is (eq. 6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.frontend import LogMel
from audiopure.nets.mel_unet import MelUNet
from audiopure.recognisers import build_recogniser
from audiopure.training.config import Strict
from audiopure.training.recogniser import RecogniserConfig, RecogniserRecipe

HELD_OUT = 200  # clips of the validation split
JUDGED = (1, 2, 3, 5, 10, 25, 50, 100, 200)  # steps of the schedule in validation, those there are


class Network(Strict):
    """Arguments of `UNet`; the defaults are the paper's."""

    width: int = Field(default=128, gt=0)
    multiples: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = Field(default=3, gt=0)
    attention: tuple[int, ...] = (1, 2)
    heads: int = Field(default=4, gt=0)
    dropout: float = Field(default=0.3, ge=0, lt=1)


class SpectrumConfig(RecogniserConfig):
    """Settings of the recipe, beside the augmentation of `recogniser`.

    Attributes:
        network: the recogniser whose front end it is for, a name in `recognisers.RECOGNISERS`.
        unet: size of the network.
        low, high: dB that become -1 and 1.
        steps_of_noise: of the schedule, which is the paper's linear one.
        latest: the noisiest step that is trained; a purifier needs the first few only.
    """

    unet: Network = Network()
    low: float = -100.0
    high: float = 38.22
    steps_of_noise: int = Field(default=200, gt=0)
    latest: int = Field(default=200, gt=0)
    mixup: float = Field(default=0.0, ge=0, le=1)
    masking: bool = False


class SpectrumRecipe(RecogniserRecipe):
    kind = "spectrum"
    config: SpectrumConfig

    def __init__(self, config: SpectrumConfig, root: Path):
        super().__init__(config, root)
        recogniser = build_recogniser(config.network, self.labels)
        front = getattr(recogniser, "frontend", None)
        if not isinstance(front, LogMel):
            raise InputError(f"the network '{config.network}' has no log-mel spectrogram")
        self.front, self.padded = front, recogniser.padded
        schedule = NoiseSchedule.linear(steps=config.steps_of_noise)
        latest = min(config.latest, len(schedule))
        self.alpha_bar = torch.tensor([schedule.alpha_bar(n) for n in range(1, latest + 1)])
        chosen = np.random.default_rng(config.seed).permutation(len(self.held_out))[:HELD_OUT]
        self.held_out = self.held_out[chosen]

    def build(self) -> nn.Module:
        return MelUNet(
            frontend=self.front.config,
            low=self.config.low,
            high=self.config.high,
            network=self.config.unet.model_dump(),
            steps=self.config.steps_of_noise,
        )

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clips (B, T), 0-based steps of the schedule (B,), and a seed for the noise."""
        wave, _, _ = super().batch(step)
        rng = np.random.default_rng([self.config.seed, step, 2])
        index = torch.from_numpy(rng.integers(0, len(self.alpha_bar), len(wave)))
        return wave, index, torch.tensor(step)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        wave, index, step = batch
        return self._error(model, wave, index, self.config.seed * 1_000_003 + int(step)).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Squared errors of the noise at some steps; the score is minus their mean."""
        device, found = next(model.parameters()).device, {}
        for number in (n for n in JUDGED if n <= len(self.alpha_bar)):
            parts = [
                self._error(model, part.to(device), torch.full((len(part),), number - 1), number)
                for part in self.held_out.split(50)
            ]
            found[f"error_{number}"] = torch.cat(parts).mean().item()
        return {"score": -sum(found.values()) / len(found), **found}

    def _error(self, model: nn.Module, wave: Tensor, index: Tensor, seed: int) -> Tensor:
        """Mean squared error of each clip's noise. Shape: (B, T), (B,) -> (B,)."""
        clean = model.scaled(self.front.to(wave.device)(self.padded(wave)))  # type: ignore[operator]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        kept = self.alpha_bar[index.cpu()].to(clean.device)[:, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        return (model(noisy, index.to(clean.device)).float() - noise).square().mean(1)
