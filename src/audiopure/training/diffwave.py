"""Recipe `diffwave`: the unconditional DiffWave, trained as DDPM is (eq. 6): every step counts alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.nets.diffwave import DiffWave
from audiopure.training.clips import Clips, ClipsConfig
from audiopure.training.config import Strict
from audiopure.training.ddpm import judged, noise_error

HELD_OUT = 100  # clips of the validation split


class Network(Strict):
    """Arguments of `DiffWave`; the defaults are the published network's."""

    channels: int = Field(default=256, gt=0)
    skip_channels: int = Field(default=256, gt=0)
    layers: int = Field(default=36, gt=0)
    dilation_cycle: int = Field(default=12, gt=0)
    steps: int = Field(default=200, gt=0)


class DiffWaveConfig(ClipsConfig):
    """Settings of the recipe; clips are not augmented.

    Attributes:
        network: size of the network, and steps of its schedule, which is the paper's linear one.
    """

    network: Network = Network()


class DiffWaveRecipe(Clips):
    kind = "eps"
    nats = False

    def __init__(self, config: DiffWaveConfig, root: Path):
        super().__init__(config, root)
        self.config = config
        schedule = NoiseSchedule.linear(steps=config.network.steps)
        self.alpha_bar = torch.tensor([schedule.alpha_bar(n) for n in range(1, len(schedule) + 1)])
        self.keep_held_out(HELD_OUT)

    def build(self) -> nn.Module:
        return DiffWave(**self.config.network.model_dump())

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clips (B, T), 0-based steps of the schedule (B,), and standard normal noise (B, T)."""
        items = self.items(step)
        wave = self.corpus.crops(items, np.zeros(len(items)), self.length)
        rng = np.random.default_rng([self.seed, step, 2])
        index = torch.from_numpy(rng.integers(0, len(self.alpha_bar), len(wave)))
        return wave, index, torch.from_numpy(rng.standard_normal(wave.shape, dtype=np.float32))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return noise_error(model, self.alpha_bar, *batch).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Squared errors of the noise at some steps, whose mean is the loss and minus the score."""
        device = next(model.parameters()).device
        parts = [part.to(device) for part in self.held_out.split(25)]
        return judged(parts, self.length, len(self.alpha_bar), partial(noise_error, model, self.alpha_bar))
