"""Recipe `spectrum`: DiffSpec's network, trained on log-mel spectrograms as DDPM is (eq. 6).

Clips are clean: what a purifier's network learns of noise in its data it will leave in what it purifies.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure.diffusion.denoiser import EpsDenoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.frontend import LogMel
from audiopure.nets.mel_unet import MelUNet
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.recognisers import build_recogniser
from audiopure.spectral import SpectralDefended
from audiopure.training.clips import AugmentedClips, AugmentedConfig
from audiopure.training.config import Strict
from audiopure.training.ddpm import judged, noise_error

HELD_OUT = 100  # clips of the validation split
PURIFIED = (1, 2, 3, 5, 10)  # n* at which the recogniser hears them, those that are trained


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
        recogniser: weights that hear purified clips in validation, of that front end; None for none.
    """

    network: str = "mel_resnet"
    unet: Network = Network()
    low: float = -100.0
    high: float = 38.22
    steps_of_noise: int = Field(default=200, gt=0)
    latest: int = Field(default=200, gt=0)
    recogniser: str | None = None
    background: str | None = None  # nothing is mixed in


class SpectrumRecipe(AugmentedClips):
    kind = "spectrum"
    nats = False
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
        self.schedule = NoiseSchedule.linear(steps=config.steps_of_noise)
        latest = min(config.latest, len(self.schedule))
        self.alpha_bar = torch.tensor([self.schedule.alpha_bar(n) for n in range(1, latest + 1)])
        self.keep_held_out(HELD_OUT)
        self.recogniser = None if config.recogniser is None else self.hears(config.recogniser)
        heard = getattr(self.recogniser, "frontend", None)
        if self.recogniser is not None and getattr(heard, "config", None) != front.config:
            raise InputError(f"{config.recogniser} hears other spectrograms than '{config.network}'")

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
        wave, _, rng = self.augmented(step, noisy=False)
        index = torch.from_numpy(rng.integers(0, len(self.alpha_bar), len(wave)))
        return wave, index, torch.from_numpy(rng.standard_normal((len(wave), self.size), dtype=np.float32))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return self._error(model, *batch).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Squared errors of the noise at some steps, whose mean is the loss and minus the score.

        With a recogniser, also its accuracy on purified clips, from which n* is chosen.
        """
        parts = self._parts(model, self.held_out)
        found = judged(parts, self.size, len(self.alpha_bar), partial(self._error, model))
        return {**found, **self._accuracy(model)}

    def _accuracy(self, model: nn.Module) -> dict[str, float]:
        found: dict[str, float] = {}
        for number in (n for n in PURIFIED if self.recogniser is not None and n <= len(self.alpha_bar)):
            assert self.recogniser is not None
            system = self._system(self.recogniser, model, number)
            answers = [
                system(part, noise=SeededNoise(self.seed).fresh(k)).argmax(1).cpu()
                for k, part in enumerate(self._parts(model, self.held_out))
            ]
            found[f"accuracy_{number}"] = (torch.cat(answers) == self.targets).float().mean().item()
        return found

    def _system(self, recogniser: nn.Module, model: nn.Module, n_star: int) -> SpectralDefended:
        purifier = Purifier(EpsDenoiser(model, self.schedule), n_star=n_star, schedule=self.schedule)
        return SpectralDefended(recogniser, purifier)

    def _parts(self, model: nn.Module, clips: Tensor) -> list[Tensor]:
        device = next(model.parameters()).device
        if self.recogniser is not None:
            self.recogniser.to(device)
        return [part.to(device) for part in clips.split(50)]

    def _error(self, model: nn.Module, wave: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of each clip's noise. Shape: (B, T), (B,), (B, mels * frames) -> (B,)."""
        clean = model.scaled(self.front.to(wave.device)(self.padded(wave)))  # type: ignore[operator]
        return noise_error(model, self.alpha_bar, clean, index, noise)
