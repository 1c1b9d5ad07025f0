"""Recipe `stability`: a denoiser trained through a recogniser that stays as it is (Salman et al. 2020).

Denoised smoothing with their stability objective: of a noisy clip, denoised, the recogniser shall hear what
it hears of the clip itself. The squared error keeps the denoiser one that other recognisers may use.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure import hub
from audiopure.errors import InputError
from audiopure.training.recogniser import RecogniserConfig, RecogniserRecipe
from audiopure.training.smoothed import HELD_OUT, LEVELS


class StabilityConfig(RecogniserConfig):
    """Settings of the recipe, beside the augmentation of `recogniser`.

    Attributes:
        initial: weights of the denoiser to begin with.
        recogniser: weights of the recogniser.
        least, most: sigma is drawn between these, evenly in its logarithm.
        error: weight of the logarithm of the relative squared error.
    """

    initial: str = "small"
    recogniser: str = "digits"
    least: float = Field(default=0.004, gt=0)
    most: float = Field(default=1.0, gt=0)
    error: float = Field(default=0.3, ge=0)
    mixup: float = Field(default=0.0, ge=0, le=1)
    masking: bool = False


class StabilityRecipe(RecogniserRecipe):
    kind = "denoiser"
    config: StabilityConfig

    def __init__(self, config: StabilityConfig, root: Path):
        if config.least > config.most:
            raise InputError(f"least ({config.least:g}) must not exceed most ({config.most:g})")
        super().__init__(config, root)
        self.recogniser = hub.load(config.recogniser, kind="recogniser")
        chosen = np.random.default_rng(config.seed).permutation(len(self.held_out))[:HELD_OUT]
        generator = torch.Generator().manual_seed(config.seed)
        clips = self.held_out[chosen]
        self.noisy = [clips + sigma * torch.randn(clips.shape, generator=generator) for sigma in LEVELS]
        self.targets = self.targets[chosen]

    def build(self) -> nn.Module:
        return hub.load(self.config.initial, kind="denoiser").requires_grad_(True)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clips (B, T), sigma (B,) and standard normal noise (B, T)."""
        wave, _, _ = super().batch(step)
        rng = np.random.default_rng([self.config.seed, step, 2])
        low, high = np.log(self.config.least), np.log(self.config.most)
        sigma = torch.from_numpy(np.exp(rng.uniform(low, high, len(wave)))).float()
        return wave, sigma, torch.from_numpy(rng.standard_normal(wave.shape, dtype=np.float32))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        wave, sigma, noise = batch
        recogniser = self.recogniser.to(wave.device)
        with torch.no_grad():
            heard = recogniser(wave).argmax(1)
        clean = model(wave + sigma[:, None] * noise, sigma)
        error = ((clean - wave).square().mean(1) / sigma.square() + 1e-3).log().mean()
        return nn.functional.cross_entropy(recogniser(clean).float(), heard) + self.config.error * error

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        recogniser, found = self.recogniser.to(device), {}
        for level, clips in zip(LEVELS, self.noisy, strict=True):
            parts = [recogniser(model(part.to(device), level)).argmax(1).cpu() for part in clips.split(64)]
            found[f"accuracy_{level:g}"] = (torch.cat(parts) == self.targets).float().mean().item()
        return {"score": sum(found.values()) / len(found), **found}
