"""Recipe `spectrum`: DiffSpec's network, trained on log-mel spectrograms as DDPM is (eq. 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.frontend import LogMel
from audiopure.nets.mel_unet import MelUNet
from audiopure.recognisers import build_recogniser
from audiopure.training.clips import AugmentedClips, AugmentedConfig
from audiopure.training.config import Strict

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


class SpectrumConfig(AugmentedConfig):
    """Settings of the recipe, beside the augmentation of `recogniser`.

    Attributes:
        network: the recogniser whose front end it is for, a name in `recognisers.RECOGNISERS`.
        unet: size of the network.
        low, high: dB that become -1 and 1.
        steps_of_noise: of the schedule, which is the paper's linear one.
        latest: the noisiest step that is trained; a purifier needs the first few only.
    """

    network: str = "mel_resnet"
    unet: Network = Network()
    low: float = -100.0
    high: float = 38.22
    steps_of_noise: int = Field(default=200, gt=0)
    latest: int = Field(default=200, gt=0)


class SpectrumRecipe(AugmentedClips):
    kind = "spectrum"
    config: SpectrumConfig

    def __init__(self, config: SpectrumConfig, root: Path):
        super().__init__(config, root)
        self.config = config
        recogniser = build_recogniser(config.network, self.labels)
        front = getattr(recogniser, "frontend", None)
        if not isinstance(front, LogMel):
            raise InputError(f"the network '{config.network}' has no log-mel spectrogram")
        self.front = front
        self.padded: Any = recogniser.padded
        self.size = front(self.padded(self.held_out[:1])).numel()  # of a spectrogram
        schedule = NoiseSchedule.linear(steps=config.steps_of_noise)
        latest = min(config.latest, len(schedule))
        self.alpha_bar = torch.tensor([schedule.alpha_bar(n) for n in range(1, latest + 1)])
        self.keep_held_out(HELD_OUT)

    def build(self) -> nn.Module:
        return MelUNet(
            frontend=self.front.config,
            low=self.config.low,
            high=self.config.high,
            network=self.config.unet.model_dump(),
            steps=self.config.steps_of_noise,
            latest=len(self.alpha_bar),
        )

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clips (B, T), 0-based steps of the schedule (B,), and standard normal noise (B, mels * frames)."""
        wave, _, rng = self.augmented(step)
        index = torch.from_numpy(rng.integers(0, len(self.alpha_bar), len(wave)))
        return wave, index, torch.from_numpy(rng.standard_normal((len(wave), self.size), dtype=np.float32))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return self._error(model, *batch).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Squared errors of the noise at some steps; the score is minus their mean."""
        device, found = next(model.parameters()).device, {}
        for number in (n for n in JUDGED if n <= len(self.alpha_bar)):
            generator = torch.Generator().manual_seed(number)
            parts = [
                self._error(
                    model,
                    part.to(device),
                    torch.full((len(part),), number - 1),
                    torch.randn(len(part), self.size, generator=generator),
                )
                for part in self.held_out.split(50)
            ]
            found[f"error_{number}"] = torch.cat(parts).mean().item()
        return {"score": -sum(found.values()) / len(found), **found}

    def _error(self, model: nn.Module, wave: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of each clip's noise. Shape: (B, T), (B,), (B, mels * frames) -> (B,)."""
        clean = model.scaled(self.front.to(wave.device)(self.padded(wave)))  # type: ignore[operator]
        noise = noise.to(clean.device)
        kept = self.alpha_bar[index.cpu()].to(clean.device)[:, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        return (model(noisy, index.to(clean.device)).float() - noise).square().mean(1)
