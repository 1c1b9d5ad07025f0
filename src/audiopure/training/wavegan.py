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
from audiopure.training.config import Decay
from audiopure.training.corpus import Corpus

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
    betas: tuple[Decay, Decay] = (0.5, 0.9)
    weight_decay: float = Field(default=0.0, ge=0)


class WaveGanRecipe(Clips):
    kind = "generator"
    nats = False
    config: WaveGanConfig

    def __init__(self, config: WaveGanConfig, root: Path):
        super().__init__(config, root)
        self.config = config
        self.recogniser = hub.load(config.recogniser, kind="recogniser")
        chosen = np.random.default_rng(config.seed).permutation(len(self.validation))[:JUDGED]
        self.words = _centred(self.validation, chosen)  # held out

    def build(self) -> nn.Module:
        return WaveGan(self.config.width, self.config.latent)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Words (B, 16384), vectors (B, latent), places between words and fakes (B,), and the step."""
        items = self.items(step)
        rng = np.random.default_rng([self.config.seed, step, 2])
        z = torch.from_numpy(rng.uniform(-1, 1, (len(items), self.config.latent))).float()
        between = torch.from_numpy(rng.random(len(items))).float()
        return _centred(self.corpus, items), z, between, torch.tensor(step)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The critic's loss, and in the generator's turn its own, which leaves the critic's weights alone."""
        assert isinstance(model, WaveGan)
        real, z, between, step = batch
        made, critic = model.generator(z), model.critic
        loss = self._critics(critic, real, made.detach(), between).mean()
        if (int(step) + 1) % self.config.turns == 0:
            still = {name: p.detach() for name, p in critic.named_parameters()}
            loss = loss - functional_call(critic, still, made).mean()
        return loss

    def _critics(self, critic: nn.Module, real: Tensor, fake: Tensor, between: Tensor) -> Tensor:
        """The critic's loss for each pair of a word and a fake. Shape: (B, T) twice, (B,) -> (B,)."""
        with torch.enable_grad():
            mixed = torch.lerp(real, fake, between[:, None]).requires_grad_()
            (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
            steep = (slope.square().sum(1) + 1e-12).sqrt()
            return critic(fake) - critic(real) + self.config.penalty * (steep - 1).square()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The inception score, at most 10: whether the recogniser knows the words, and how many there are.

        The loss is minus that: the critic's own on words of the validation split (`critic`) does not settle.
        """
        assert isinstance(model, WaveGan)
        device = next(model.parameters()).device
        rng = np.random.default_rng(0)
        z = torch.from_numpy(rng.uniform(-1, 1, (JUDGED, self.config.latent))).float()
        recogniser = self.recogniser.to(device)
        said = [model.generator(part.to(device)) for part in z.split(100)]
        each = torch.cat([recogniser(part).log_softmax(1).double().cpu() for part in said])
        mean = each.exp().mean(0).log()
        score = float((each.exp() * (each - mean)).sum(1).mean().exp())
        count = len(self.words)
        fakes, between = torch.cat(said)[:count], torch.from_numpy(rng.random(count)).float()
        parts = zip(self.words.split(100), fakes.split(100), between.split(100), strict=True)
        losses = [
            self._critics(model.critic, real.to(device), fake, share.to(device)).detach().cpu()
            for real, fake, share in parts
        ]
        return {"score": score, "loss": -score, "critic": torch.cat(losses).mean().item()}

    def product(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, WaveGan)
        return model.generator


def _centred(corpus: Corpus, items: np.ndarray) -> Tensor:
    """Clips in the middle of as many samples as a generator says. Shape: -> (len(items), 16384)."""
    start = np.minimum((corpus.lengths[items] - WaveGan.samples) // 2, 0)
    return corpus.crops(items, start, WaveGan.samples)
