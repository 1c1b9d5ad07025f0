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
from audiopure.training.denoiser import left


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
    nats = True
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
        losses, _ = self._heard(model, wave, wave + sigma[:, None] * noise, sigma)
        return losses.mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy at levels of noise; the loss is that of training, as a mean over them."""
        device = next(model.parameters()).device
        found, losses = {}, []
        for level, clips in zip(noisy.LEVELS, self.noisy, strict=True):
            answers = []
            for part, own in zip(clips.split(64), self.held_out.split(64), strict=True):
                sigma = torch.full((len(part),), level, device=device)
                loss, logits = self._heard(model, own.to(device), part.to(device), sigma)
                answers.append(logits.argmax(1).cpu())
                losses.append(loss.cpu())
            found[f"accuracy_{level:g}"] = (torch.cat(answers) == self.targets).float().mean().item()
        loss = torch.cat(losses).mean().item()
        return {"score": sum(found.values()) / len(found), "loss": loss, **found}

    def _heard(self, model: nn.Module, wave: Tensor, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each clip (B,), and the logits (B, labels) of its noisy version denoised."""
        recogniser = self.recogniser.to(wave.device)
        with torch.no_grad():
            heard = recogniser(wave).argmax(1)
        clean = model(noisy, sigma)
        logits = recogniser(clean).float()
        losses = nn.functional.cross_entropy(logits, heard, reduction="none")
        return losses + self.config.error * left(clean, wave, sigma), logits
