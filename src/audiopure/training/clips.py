"""The clips of a labelled dataset, plain or augmented, for recipes that train on words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from audiopure import hub
from audiopure.data.layouts import load_dataset
from audiopure.errors import InputError
from audiopure.training.config import TrainConfig
from audiopure.training.corpus import Corpus

RATE = 16_000
Decibel = Annotated[float, Field(ge=-60, le=60)]
QUIETEST = 3e-4  # smallest sigma of white noise


class ClipsConfig(TrainConfig):
    """Where clips come from, and how long they are."""

    dataset: str = "sc09"
    seconds: float = Field(default=1.0, ge=0.1)


class AugmentedConfig(ClipsConfig):
    """How clips are varied."""

    background: str | None = "background"  # a dataset of noise; "" for none
    shift: float = Field(default=0.12, ge=0)  # seconds, to either side
    speed: float = Field(default=0.15, ge=0, lt=0.5)  # resampling, to either side
    gain: tuple[Decibel, Decibel] = (-18.0, 10.0)  # from and to, before loud clips are brought to full scale
    noise: float = Field(default=0.04, ge=QUIETEST)  # largest sigma of white noise

    @field_validator("gain")
    @classmethod
    def _grows(cls, gain: tuple[float, float]) -> tuple[float, float]:
        if gain[0] > gain[1]:
            raise ValueError("the smaller gain comes first")
        return gain


class Clips:
    """The training split in memory, and the validation split as `held_out` (n, T) with `targets` (n,).

    `audio` names what is heard: split -> `Corpus.digest`.
    """

    def __init__(self, config: ClipsConfig, root: Path):
        self.length = round(config.seconds * RATE)
        self.seed, self.batch_size = config.seed, config.batch
        train = load_dataset(config.dataset, root, "train")
        held_out = load_dataset(config.dataset, root, "validation")
        self.labels = train.labels
        self.corpus, self.validation = Corpus(train), Corpus(held_out)
        self.audio = {
            f"{config.dataset} train": self.corpus.digest(),
            f"{config.dataset} validation": self.validation.digest(),
        }
        everything = np.arange(len(self.validation))
        self.held_out = self.validation.crops(everything, np.zeros(len(everything)), self.length)
        self.targets = self.validation.targets

    def keep_held_out(self, count: int) -> None:
        """Judge by so many clips of the validation split, drawn by the seed."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.held_out))[:count]
        self.held_out, self.targets = self.held_out[chosen], self.targets[chosen]

    def product(self, model: nn.Module) -> nn.Module:
        """All of it is stored."""
        return model

    def hears(self, name: str) -> nn.Module:
        """A recogniser of these words by its weights.

        Raises InputError for one of other words, or of these in another order.
        """
        recogniser = hub.load(name, kind="recogniser")
        if list(recogniser.labels) != list(self.labels):  # type: ignore[arg-type]
            raise InputError(f"{name} knows other words than the dataset, or these in another order")
        return recogniser

    def items(self, step: int) -> np.ndarray:
        """Clips of this step: every clip once an epoch, in an order that depends on the epoch alone."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(position, len(self.corpus))
        orders = {
            e: np.random.default_rng([self.seed, 1 << 30, e]).permutation(len(self.corpus))
            for e in np.unique(epochs)
        }
        return np.array([orders[e][i] for e, i in zip(epochs, within, strict=True)])


class AugmentedClips(Clips):
    """The same, with the augmentation that a small set needs."""

    def __init__(self, config: AugmentedConfig, root: Path):
        super().__init__(config, root)
        self.augmentation = config
        self.noise: Corpus | None = None
        if config.background:
            self.noise = Corpus(load_dataset(config.background, root, "train"))
            self.audio[f"{config.background} train"] = self.noise.digest()

    def augmented(self, step: int, *, noisy: bool = True) -> tuple[Tensor, Tensor, np.random.Generator]:
        """Waveforms (B, T), their labels (B,), and where further draws of this step come from."""
        config = self.augmentation
        rng = np.random.default_rng([config.seed, step])
        items = self.items(step)
        speed = np.exp(rng.uniform(np.log(1 - config.speed), np.log(1 + config.speed), len(items)))
        slack = self.corpus.lengths[items] - self.length * speed
        start = rng.uniform(-config.shift, config.shift, len(items)) * RATE + np.minimum(slack / 2, 0)
        wave = self._resampled(items, start, speed)
        low, high = (decibel / 20 for decibel in config.gain)
        gain = 10 ** rng.uniform(low, high, (len(items), 1))
        wave *= torch.from_numpy(gain).float()
        peak = wave.abs().amax(1, keepdim=True).clamp(min=1e-4)
        wave *= torch.clamp(1 / peak, max=1)
        if noisy:
            self.add_noise(wave, rng)
        return wave, self.corpus.targets[items], rng

    def add_noise(self, wave: Tensor, rng: np.random.Generator) -> None:
        """White noise in half of the clips, background in some, in place."""
        count = len(wave)
        white = np.flatnonzero(rng.random(count) < 0.5)
        sigma = np.exp(rng.uniform(np.log(QUIETEST), np.log(self.augmentation.noise), (len(white), 1)))
        wave[white] += torch.from_numpy(rng.standard_normal((len(white), self.length)) * sigma).float()
        if self.noise is not None:
            coloured = np.flatnonzero(rng.random(count) < 0.3)
            level = torch.from_numpy(rng.uniform(0, 1.0, (len(coloured), 1))).float()
            wave[coloured] += self.noise.random_crops(len(coloured), self.length, rng) * level

    def _resampled(self, items: np.ndarray, start: np.ndarray, speed: np.ndarray) -> Tensor:
        """Crops read at `speed` times the normal pace, by linear interpolation. Shape: (B, T)."""
        reach = int(self.length * (1 + self.augmentation.speed)) + 2
        whole = np.floor(start)
        crop = self.corpus.crops(items, whole, reach)
        offset = torch.from_numpy(start - whole)[:, None]
        place = offset + torch.from_numpy(speed)[:, None] * torch.arange(self.length)
        index = place.long()
        weight = (place - index).float()
        return torch.lerp(crop.gather(1, index), crop.gather(1, index + 1), weight)
