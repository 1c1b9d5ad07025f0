"""Recipe `recogniser`: a keyword recogniser trained with the augmentation that a small set needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure.errors import InputError
from audiopure.recognisers import build_recogniser
from audiopure.training.clips import AugmentedClips, AugmentedConfig


class RecogniserConfig(AugmentedConfig):
    """Settings of the recipe.

    Attributes:
        network: a name in `audiopure.recognisers.RECOGNISERS`.
        initial: weights to begin with; None for a fresh network.
    """

    network: str = "mel_resnet"
    initial: str | None = None
    mixup: float = Field(default=0.5, ge=0, le=1)  # share of the batch
    smoothing: float = Field(default=0.05, ge=0, lt=1)
    masking: bool = True  # SpecAugment, for networks with `features` and `classify`


class PlainConfig(RecogniserConfig):
    """Nothing mixed, smoothed or masked by default: for recipes with a loss of their own."""

    mixup: float = Field(default=0.0, ge=0, le=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    masking: bool = False


class RecogniserRecipe(AugmentedClips):
    kind = "recogniser"
    nats = True
    noisy = True  # clips get noise as well

    def __init__(self, config: RecogniserConfig, root: Path):
        super().__init__(config, root)
        self.config = config

    def build(self) -> nn.Module:
        network = build_recogniser(self.config.network, self.labels)
        if self.config.masking and not hasattr(network, "classify"):
            name = self.config.network
            raise InputError(f"the network '{name}' has no features to mask: set masking = false")
        if self.config.initial is not None:
            before = self.hears(self.config.initial).state_dict()
            try:
                network.load_state_dict(before)
            except RuntimeError as error:
                name, kind = self.config.initial, self.config.network
                raise InputError(f"{name} is no {kind} for these words") from error
        return network

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Waveforms (B, T), soft targets (B, labels), and a seed for the masks."""
        config = self.config
        wave, labels, rng = self.augmented(step, noisy=self.noisy)
        targets = nn.functional.one_hot(labels, len(self.labels)).float()
        targets = targets * (1 - config.smoothing) + config.smoothing / len(self.labels)
        mixed = rng.beta(0.3, 0.3, (len(wave), 1))
        mixed[rng.random(len(wave)) >= config.mixup] = 1.0
        share = torch.from_numpy(mixed).float()
        partner = torch.from_numpy(rng.permutation(len(wave)))
        wave = share * wave + (1 - share) * wave[partner]
        targets = share * targets + (1 - share) * targets[partner]
        return wave, targets, torch.tensor(step)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        wave, targets, step = batch
        if self.config.masking:
            logits = model.classify(mask(model.features(wave), int(step) + self.config.seed))  # type: ignore
        else:
            logits = model(wave)
        return nn.functional.cross_entropy(logits.float(), targets)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on clips and on clips in noise; the loss is the cross-entropy of the clips as they are."""
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        noisy = self.held_out + 0.0245 * torch.randn(self.held_out.shape, generator=generator)
        correct, losses = {}, []
        for name, waves in (("accuracy", self.held_out), ("accuracy_noisy", noisy)):
            logits = torch.cat([model(part.to(device)).float().cpu() for part in waves.split(128)])
            correct[name] = (logits.argmax(1) == self.targets).float().mean().item()
            losses.append(nn.functional.cross_entropy(logits, self.targets).item())
        # noise counts too: what follows a purifier hears its residue
        return {"score": correct["accuracy"] + 0.25 * correct["accuracy_noisy"], "loss": losses[0], **correct}


def mask(features: Tensor, seed: int, *, bands: int = 12, frames: int = 20) -> Tensor:
    """SpecAugment (Park et al. 2019): one band and one stretch of time set to the mean of the clip.

    Shape: (B, mels, frames) -> the same.
    """
    batch, mels, length = features.shape
    rng = np.random.default_rng([seed, 7])

    def stretch(total: int, longest: int) -> Tensor:
        width = rng.integers(0, longest + 1, (batch, 1))
        begin = np.floor(rng.random((batch, 1)) * (total - width))
        place = np.arange(total)
        return torch.from_numpy((place >= begin) & (place < begin + width)).to(features.device)

    hidden = stretch(mels, bands)[:, :, None] | stretch(length, frames)[:, None, :]
    return torch.where(hidden, features.mean((1, 2), keepdim=True), features)
