"""Recipe `wavegan`: a generator of words and its critic, with a gradient penalty (Gulrajani et al. 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from audiopure import hub
from audiopure.nets.wavegan import WaveGan
from audiopure.training.clips import Clips, ClipsConfig

JUDGED = 500  # generated words in a validation


class WaveGanConfig(ClipsConfig):
    """Settings of the recipe; words are not augmented.

    Attributes:
        width, latent: of the generator; the paper's are 64 and 100.
        turns: steps of the critic for each of the generator.
        penalty: weight of the gradient penalty.
        recogniser: weights of the recogniser that judges what the generator says.
    """

    width: int = Field(default=64, gt=0)
    latent: int = Field(default=100, gt=0)
    turns: int = Field(default=5, gt=0)
    penalty: float = Field(default=10.0, ge=0)
    recogniser: str = "digits"
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = Field(default=0.0, ge=0)


class WaveGanRecipe(Clips):
    kind = "generator"
    config: WaveGanConfig

    def __init__(self, config: WaveGanConfig, root: Path):
        super().__init__(config, root)
        self.config = config
        self.recogniser = hub.load(config.recogniser, kind="recogniser")

    def build(self) -> nn.Module:
        return WaveGan(self.config.width, self.config.latent)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Words (B, 16384), vectors (B, latent), places between words and fakes (B,), and the step."""
        items = self.items(step)
        length = WaveGan.samples
        start = np.minimum((self.corpus.lengths[items] - length) // 2, 0)
        rng = np.random.default_rng([self.config.seed, step, 2])
        z = torch.from_numpy(rng.uniform(-1, 1, (len(items), self.config.latent))).float()
        between = torch.from_numpy(rng.random(len(items))).float()
        return self.corpus.crops(items, start, length), z, between, torch.tensor(step)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The critic's loss, and in the generator's turn its own, which leaves the critic's weights alone."""
        assert isinstance(model, WaveGan)
        real, z, between, step = batch
        made = model.generator(z)
        fake = made.detach()
        critic = model.critic
        mixed = torch.lerp(real, fake, between[:, None]).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        steep = (slope.square().sum(1) + 1e-12).sqrt()
        loss = (critic(fake) - critic(real) + self.config.penalty * (steep - 1).square()).mean()
        if (int(step) + 1) % self.config.turns == 0:
            still = {name: p.detach() for name, p in critic.named_parameters()}
            loss = loss - functional_call(critic, still, made).mean()
        return loss

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The inception score, at most 10: whether the recogniser knows the words, and how many there are."""
        assert isinstance(model, WaveGan)
        device = next(model.parameters()).device
        rng = np.random.default_rng(0)
        z = torch.from_numpy(rng.uniform(-1, 1, (JUDGED, self.config.latent))).float()
        recogniser = self.recogniser.to(device)
        answers = [
            recogniser(model.generator(part.to(device))).log_softmax(1).double().cpu()
            for part in z.split(100)
        ]
        each = torch.cat(answers)
        mean = each.exp().mean(0).log()
        return {"score": float((each.exp() * (each - mean)).sum(1).mean().exp())}

    def product(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, WaveGan)
        return model.generator
