"""Recipe `recogniser`: a keyword recogniser trained with the augmentation that a small set needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure import hub
from audiopure.data.layouts import load_dataset
from audiopure.errors import InputError
from audiopure.recognisers import build_recogniser
from audiopure.training.config import TrainConfig
from audiopure.training.corpus import Corpus

RATE = 16_000
QUIETEST = 3e-4  # smallest sigma of white noise


class RecogniserConfig(TrainConfig):
    """Settings of the recipe.

    Attributes:
        network: a name in `audiopure.recognisers.RECOGNISERS`.
        initial: weights to begin with; None for a fresh network.
    """

    network: str = "mel_resnet"
    initial: str | None = None
    dataset: str = "sc09"
    background: str | None = "background"
    seconds: float = Field(default=1.0, gt=0)
    shift: float = Field(default=0.12, ge=0)  # seconds, to either side
    speed: float = Field(default=0.15, ge=0, lt=0.5)  # resampling, to either side
    noise: float = Field(default=0.04, ge=QUIETEST)  # largest sigma of white noise
    mixup: float = Field(default=0.5, ge=0, le=1)  # share of the batch
    smoothing: float = Field(default=0.05, ge=0, lt=1)
    masking: bool = True  # SpecAugment, for networks with `features` and `classify`


class RecogniserRecipe:
    kind = "recogniser"

    def __init__(self, config: RecogniserConfig, root: Path):
        self.config = config
        self.length = round(config.seconds * RATE)
        train = load_dataset(config.dataset, root, "train")
        held_out = load_dataset(config.dataset, root, "validation")
        self.labels = train.labels
        self.corpus = Corpus(train)
        self.noise = Corpus(load_dataset(config.background, root, "train")) if config.background else None
        validation = Corpus(held_out)
        everything = np.arange(len(validation))
        self.held_out = validation.crops(everything, np.zeros(len(validation)), self.length)
        self.targets = validation.targets

    def build(self) -> nn.Module:
        network = build_recogniser(self.config.network, self.labels)
        if self.config.masking and not hasattr(network, "classify"):
            name = self.config.network
            raise InputError(f"the network '{name}' has no features to mask: set masking = false")
        if self.config.initial is not None:
            before = hub.load(self.config.initial, kind="recogniser").state_dict()
            try:
                network.load_state_dict(before)
            except RuntimeError as error:
                name, kind = self.config.initial, self.config.network
                raise InputError(f"{name} is no {kind} for these words") from error
        return network

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Waveforms (B, T), soft targets (B, labels), and a seed for the masks."""
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        items = self._items(step)
        speed = np.exp(rng.uniform(np.log(1 - config.speed), np.log(1 + config.speed), len(items)))
        slack = self.corpus.lengths[items] - self.length * speed
        start = rng.uniform(-config.shift, config.shift, len(items)) * RATE + np.minimum(slack / 2, 0)
        wave = self._resampled(items, start, speed)
        gain = 10 ** (rng.uniform(-0.9, 0.5, (len(items), 1)))
        wave *= torch.from_numpy(gain).float()
        peak = wave.abs().amax(1, keepdim=True).clamp(min=1e-4)
        wave *= torch.clamp(1 / peak, max=1)
        self._add_noise(wave, rng)
        targets = nn.functional.one_hot(self.corpus.targets[items], len(self.labels)).float()
        targets = targets * (1 - config.smoothing) + config.smoothing / len(self.labels)
        mixed = rng.beta(0.3, 0.3, (len(items), 1))
        mixed[rng.random(len(items)) >= config.mixup] = 1.0
        share = torch.from_numpy(mixed).float()
        partner = torch.from_numpy(rng.permutation(len(items)))
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
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        noisy = self.held_out + 0.0245 * torch.randn(self.held_out.shape, generator=generator)
        correct = {}
        for name, waves in (("accuracy", self.held_out), ("accuracy_noisy", noisy)):
            labels = torch.cat([model(part.to(device)).argmax(1).cpu() for part in waves.split(128)])
            correct[name] = (labels == self.targets).float().mean().item()
        # noise counts too: what follows a purifier hears its residue
        return {"score": correct["accuracy"] + 0.25 * correct["accuracy_noisy"], **correct}

    def product(self, model: nn.Module) -> nn.Module:
        return model

    def _items(self, step: int) -> np.ndarray:
        """Clips of this step: every clip once an epoch, in an order that depends on the epoch alone."""
        position = np.arange(step * self.config.batch, (step + 1) * self.config.batch)
        epochs, within = np.divmod(position, len(self.corpus))
        orders = {
            e: np.random.default_rng([self.config.seed, 1 << 30, e]).permutation(len(self.corpus))
            for e in np.unique(epochs)
        }
        return np.array([orders[e][i] for e, i in zip(epochs, within, strict=True)])

    def _resampled(self, items: np.ndarray, start: np.ndarray, speed: np.ndarray) -> Tensor:
        """Crops read at `speed` times the normal pace, by linear interpolation. Shape: (B, T)."""
        reach = int(self.length * (1 + self.config.speed)) + 2
        whole = np.floor(start)
        crop = self.corpus.crops(items, whole, reach)
        offset = torch.from_numpy(start - whole)[:, None]
        place = offset + torch.from_numpy(speed)[:, None] * torch.arange(self.length)
        index = place.long()
        weight = (place - index).float()
        return torch.lerp(crop.gather(1, index), crop.gather(1, index + 1), weight)

    def _add_noise(self, wave: Tensor, rng: np.random.Generator) -> None:
        count = len(wave)
        white = np.flatnonzero(rng.random(count) < 0.5)
        sigma = np.exp(rng.uniform(np.log(QUIETEST), np.log(self.config.noise), (len(white), 1)))
        wave[white] += torch.from_numpy(rng.standard_normal((len(white), self.length)) * sigma).float()
        if self.noise is not None:
            coloured = np.flatnonzero(rng.random(count) < 0.3)
            level = torch.from_numpy(rng.uniform(0, 1.0, (len(coloured), 1))).float()
            wave[coloured] += self.noise.random_crops(len(coloured), self.length, rng) * level


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
