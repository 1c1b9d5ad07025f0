"""Recipe `smoothed`: a recogniser that hears through smoothing noise, with or without a denoiser before it.

Without a denoiser this is Gaussian augmentation (Cohen et al. 2019); with one, the recogniser learns what the
denoiser leaves of speech at each noise level. Two noisy versions of every clip are heard, and answers that
differ between them are penalised (Jeong & Shin 2020), as a certificate lives on answers that agree. With
`attack` every clip is first moved to where its mean answer is worst (SmoothAdv, Salman et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure import hub
from audiopure.errors import InputError
from audiopure.level import SpeechLevel, denoised
from audiopure.training import noisy
from audiopure.training.recogniser import PlainConfig, RecogniserRecipe


class SmoothedConfig(PlainConfig):
    """Settings of the recipe, beside those of `recogniser`.

    Attributes:
        denoiser: weights of the denoiser, which stays as it is; None for none.
        least, most: sigma is drawn between these, evenly in its logarithm.
        consistency: weight of the mean KL divergence of both answers from their mean.
        entropy: weight of that mean's entropy.
        attack: steps of an L2 attack on the mean answer of both versions; 0 for none.
        budget: radius of the attack, in units of the clip's sigma.
    """

    denoiser: str | None = None
    least: float = Field(default=0.004, gt=0)
    most: float = Field(default=1.0, gt=0)
    consistency: float = Field(default=5.0, ge=0)
    entropy: float = Field(default=0.5, ge=0)
    attack: int = Field(default=0, ge=0)
    budget: float = Field(default=1.0, gt=0)


class SmoothedRecipe(RecogniserRecipe):
    config: SmoothedConfig

    def __init__(self, config: SmoothedConfig, root: Path):
        if config.least > config.most:
            raise InputError(f"least ({config.least:g}) must not exceed most ({config.most:g})")
        super().__init__(config, root)
        self.denoiser: nn.Module | None = None
        if config.denoiser is not None:
            self.denoiser = hub.load(config.denoiser, kind="denoiser")
            if config.precision == "bf16" and hasattr(self.denoiser, "body_to"):
                self.denoiser.body_to(torch.bfloat16)  # type: ignore[operator]
        self.keep_held_out(noisy.HELD_OUT)
        count = 2 if config.attack else 1
        self.noisy = [noisy.versions(self.held_out, config.seed + number) for number in range(count)]

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Two noisy versions of each clip (2 B, T), their sigma (2 B,) and soft targets (B, labels)."""
        wave, targets, _ = super().batch(step)
        config = self.config
        once, rng = noisy.drawn(config.seed, step, len(wave), config.least, config.most)
        sigma = once.repeat(2)
        noise = noisy.normal(rng, (2 * len(wave), wave.shape[1]))
        return wave.repeat(2, 1) + sigma[:, None] * noise, sigma, targets

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        wave, sigma, targets = batch
        if self.config.attack:
            wave = self._moved(model, wave, sigma, targets)
        logits = model(self._heard(wave, sigma)).float()
        first, second = logits.log_softmax(1).chunk(2)
        loss = -(targets * (first + second) / 2).sum(1).mean()
        mean = torch.logaddexp(first, second) - np.log(2)
        apart = sum((part.exp() * (part - mean)).sum(1).mean() / 2 for part in (first, second))
        return (
            loss + self.config.consistency * apart - self.config.entropy * (mean.exp() * mean).sum(1).mean()
        )

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy at levels of noise, all of which count for the score; the loss is the cross-entropy there.

        With `attack` also accuracy of clips that were moved, and the loss is theirs.
        """
        found, losses = {}, []
        for level, *versions in zip(noisy.LEVELS, *self.noisy, strict=True):
            answers = {"accuracy": self._logits(model, level, versions[:1])}
            if self.config.attack:
                answers["moved"] = self._logits(model, level, versions)
            for name, logits in answers.items():
                found[f"{name}_{level:g}"] = (logits.argmax(1) == self.targets).float().mean().item()
            trained = answers.get("moved", answers["accuracy"])
            losses.append(nn.functional.cross_entropy(trained, self.targets).item())
        return {"score": sum(found.values()) / len(found), "loss": sum(losses) / len(losses), **found}

    def _logits(self, model: nn.Module, level: float, versions: Sequence[Tensor]) -> Tensor:
        """Of the first of held-out clips' noisy versions; of two, both are moved first."""
        device, answers = next(model.parameters()).device, []
        for targets, *parts in zip(self.targets.split(64), *(v.split(64) for v in versions), strict=True):
            wave = torch.cat(parts).to(device)
            sigma = torch.full((len(wave),), level, device=device)
            if len(parts) > 1:
                goal = nn.functional.one_hot(targets, len(self.labels)).float().to(device)
                wave = self._moved(model, wave, sigma, goal)
            first = slice(len(targets))
            answers.append(model(self._heard(wave[first], sigma[first])).float().cpu())
        return torch.cat(answers)

    def _heard(self, wave: Tensor, sigma: Tensor) -> Tensor:
        if self.denoiser is None:
            return wave
        # at the level that the certificate's one-shot denoising uses
        with torch.set_grad_enabled(wave.requires_grad):
            return denoised(self.denoiser.to(wave.device), wave, sigma, SpeechLevel())  # type: ignore[arg-type]

    def _moved(self, model: nn.Module, wave: Tensor, sigma: Tensor, targets: Tensor) -> Tensor:
        """Both noisy versions (2 B, T) of each clip with the same change, found by ascent from none.

        The network is in eval mode meanwhile, so that its normalisations' statistics do not move.
        """
        count, training = len(targets), model.training
        radius = self.config.budget * sigma[:count, None]
        change = torch.zeros_like(wave[:count])
        model.eval()
        for _ in range(self.config.attack):
            with torch.enable_grad():
                change.requires_grad_()
                logits = model(self._heard(wave + change.repeat(2, 1), sigma)).float()
                first, second = logits.log_softmax(1).chunk(2)
                error = -(targets * torch.logaddexp(first, second)).sum()
                (slope,) = torch.autograd.grad(error, change)
            length = slope.norm(dim=1, keepdim=True).clamp(min=1e-20)
            change = change.detach() + 2 / self.config.attack * radius * slope / length
            change *= (radius / change.norm(dim=1, keepdim=True).clamp(min=1e-20)).clamp(max=1)
        model.train(training)
        return wave + change.repeat(2, 1)
