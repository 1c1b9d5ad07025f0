"""Recipe `stability`: a denoiser trained through a recogniser that stays as it is (Salman et al. 2020).

Denoised smoothing with their stability objective: of a noisy clip, denoised, the recogniser shall hear what
it hears of the clip itself. The squared error keeps the denoiser one that other recognisers may use.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure import hub
from audiopure.errors import InputError
from audiopure.training import noisy
from audiopure.training.clips import AugmentedClips, AugmentedConfig


class StabilityConfig(AugmentedConfig):
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


class StabilityRecipe(AugmentedClips):
    kind = "denoiser"
    config: StabilityConfig

    def __init__(self, config: StabilityConfig, root: Path):
        if config.least > config.most:
            raise InputError(f"least ({config.least:g}) must not exceed most ({config.most:g})")
        super().__init__(config, root)
        self.config = config
        self.recogniser = self.hears(config.recogniser)
        self.keep_held_out(noisy.HELD_OUT)
        self.noisy = noisy.versions(self.held_out, config.seed)

    def build(self) -> nn.Module:
        return hub.load(self.config.initial, kind="denoiser").requires_grad_(True)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clips (B, T), sigma (B,) and standard normal noise (B, T)."""
        wave, _, _ = self.augmented(step)
        config = self.config
        sigma, rng = noisy.drawn(config.seed, step, len(wave), config.least, config.most)
        return wave, sigma, noisy.normal(rng, (len(wave), wave.shape[1]))

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
        for level, clips in zip(noisy.LEVELS, self.noisy, strict=True):
            parts = [recogniser(model(part.to(device), level)).argmax(1).cpu() for part in clips.split(64)]
            found[f"accuracy_{level:g}"] = (torch.cat(parts) == self.targets).float().mean().item()
        return {"score": sum(found.values()) / len(found), **found}
