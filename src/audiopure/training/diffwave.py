"""Recipe `diffwave`: the unconditional DiffWave, trained as DDPM is (eq. 6): every step counts alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.nets.diffwave import DiffWave
from audiopure.training.clips import Clips, ClipsConfig
from audiopure.training.config import Strict

HELD_OUT = 100  # clips of the validation split
JUDGED = (1, 2, 3, 5, 10, 25, 50, 100, 200)  # steps of the schedule in validation, those there are


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
        return self._error(model, *batch).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Squared errors of the noise at some steps, whose mean is the loss and minus the score."""
        device, found = next(model.parameters()).device, {}
        for number in (n for n in JUDGED if n <= len(self.alpha_bar)):
            generator = torch.Generator().manual_seed(number)
            parts = []
            for part in self.held_out.split(25):
                noise = torch.randn(part.shape, generator=generator).to(device)
                index = torch.full((len(part),), number - 1, device=device)
                parts.append(self._error(model, part.to(device), index, noise))
            found[f"error_{number}"] = torch.cat(parts).mean().item()
        loss = sum(found.values()) / len(found)
        return {"score": -loss, "loss": loss, **found}

    def _error(self, model: nn.Module, wave: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of each clip's noise. Shape: (B, T), (B,), (B, T) -> (B,)."""
        kept = self.alpha_bar.to(wave.device)[index][:, None]
        noisy = kept.sqrt() * wave + (1 - kept).sqrt() * noise
        return (model(noisy, index).float() - noise).square().mean(1)
