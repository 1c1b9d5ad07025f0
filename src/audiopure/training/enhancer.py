"""Recipe `enhancer`: Conv-TasNet, trained to take out of speech what does not belong there.

That is either noise, as any speech enhancer learns it, or what attacks on a recogniser have added, which do
not know the network that is trained (Joshi et al. 2022, "offline"): each clip is attacked once, when a run
first meets it, and kept in the run's folder. The loss is the logarithm of the error that is left relative to
what was added, so that all levels count alike and no clip's loudness is lost, as it would be with the
scale-invariant ratio that Conv-TasNet's authors use.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure import hub
from audiopure.attacks.ball import ball
from audiopure.nets.conv_tasnet import ConvTasNet
from audiopure.noise import SeededNoise
from audiopure.training.adversarial_methods import climb, cross_entropy
from audiopure.training.clips import AugmentedClips, AugmentedConfig
from audiopure.training.config import Strict
from audiopure.training.crafted import Crafted

HELD_OUT = 200  # clips of the validation split
GROUP = 50  # clips attacked at a time
FAINTEST = 1e-3  # sigma of the white noise that every clip has ("noise")


class Network(Strict):
    """Arguments of `ConvTasNet`; the defaults are its paper's."""

    filters: int = Field(default=512, gt=0)
    window: int = Field(default=16, gt=1)
    bottleneck: int = Field(default=128, gt=0)
    hidden: int = Field(default=512, gt=0)
    skip: int = Field(default=128, gt=0)
    kernel: int = Field(default=3, gt=0)
    blocks: int = Field(default=8, gt=0)
    repeats: int = Field(default=3, gt=0)


class EnhancerConfig(AugmentedConfig):
    """Settings of the recipe, beside the augmentation of `recogniser`.

    Attributes:
        tasnet: size of the network.
        added: what the speech is to be freed of.
        recogniser: weights of the recogniser that is attacked.
        eps: L-inf budget of that attack, relative to full scale.
        inner: its steps, each a fifth of the budget.
    """

    tasnet: Network = Network()
    added: Literal["noise", "attack"] = "noise"
    recogniser: str = "digits"
    eps: float = Field(default=0.002, gt=0)
    inner: int = Field(default=100, gt=0)
    noise: float = Field(default=0.04, ge=FAINTEST)


class EnhancerRecipe(AugmentedClips):
    kind = "enhancer"
    nats = True
    config: EnhancerConfig

    def __init__(self, config: EnhancerConfig, root: Path):
        super().__init__(config, root)
        self.config = config
        self.recogniser = self.hears(config.recogniser)
        self.groups: dict[int, Tensor] = {}  # of clips, attacked when they are first met
        self.crafted = Crafted(None, "")
        self.keep_held_out(HELD_OUT)

    def keep_in(self, folder: Path) -> None:
        """Keep attacked clips in the run's folder, for a run that goes on after it was killed."""
        made = (self.audio, hub.digest(self.config.recogniser), self.config.model_dump_json())
        self.crafted = Crafted(folder / "crafted", hashlib.sha256(repr(made).encode()).hexdigest())

    @cached_property
    def heard(self) -> Tensor:
        """The held-out clips with what was added. Shape: (n, T)."""
        if self.config.added == "noise":
            heard = self.held_out.clone()
            self._spoil(heard, np.random.default_rng([self.config.seed, 1]))
            return heard
        return self.crafted.get(
            "validation", lambda: self._attacked(self.held_out, self.targets, self.config.seed + 1)
        )

    def build(self) -> nn.Module:
        return ConvTasNet(**self.config.tasnet.model_dump())

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Speech with what was added (B, T), and the speech (B, T)."""
        if self.config.added == "attack":
            items = self.items(step)
            start = np.zeros(len(items))
            return self._offline(items), self.corpus.crops(items, start, self.length)
        clean, _, _ = self.augmented(step, noisy=False)  # which is the target
        heard = clean.clone()
        self._spoil(heard, np.random.default_rng([self.config.seed, step, 2]))
        return heard, clean

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        heard, clean = batch
        return self._left(model, heard, clean).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Decibels of what was added that are gone (the score), and what the recogniser answers then."""
        device = next(model.parameters()).device
        left: list[Tensor] = []
        right: list[Tensor] = []
        for heard, clean, target in zip(
            self.heard.split(50), self.held_out.split(50), self.targets.split(50), strict=True
        ):
            heard, clean = heard.to(device), clean.to(device)
            left.append(self._left(model, heard, clean).cpu())
            # on the CPU, where it may be attacked at the same time for the next batch
            right.append((self.recogniser(model(heard).float().cpu()).argmax(1) == target).float())
        loss = torch.cat(left).mean().item()
        gone = -10 / math.log(10) * loss
        return {"score": gone, "loss": loss, "accuracy": torch.cat(right).mean().item()}

    def _spoil(self, wave: Tensor, rng: np.random.Generator) -> None:
        self.add_noise(wave, rng)
        # the recogniser's recipe leaves some clips clean, of which there is nothing to learn here
        sigma = np.exp(rng.uniform(np.log(FAINTEST), np.log(self.config.noise), (len(wave), 1)))
        wave += torch.from_numpy(rng.standard_normal(wave.shape) * sigma).float()

    def _left(self, model: nn.Module, heard: Tensor, clean: Tensor) -> Tensor:
        """Logarithm of the error left over what was added, at best -30 dB. Shape: (B, T) twice -> (B,)."""
        added = (heard - clean).square().mean(1) + 1e-10
        return torch.log((model(heard).float() - clean).square().mean(1) / added + 1e-3)

    def _offline(self, items: np.ndarray) -> Tensor:
        """Training clips as the attack left them. Shape: (len(items), T)."""
        for group in np.unique(items // GROUP).tolist():
            if group not in self.groups:
                self.groups[group] = self.crafted.get(f"train-{group}", partial(self._group, group))
        return torch.stack([self.groups[i // GROUP][i % GROUP] for i in items.tolist()])

    def _group(self, group: int) -> Tensor:
        whole = np.arange(group * GROUP, min((group + 1) * GROUP, len(self.corpus)))
        clips = self.corpus.crops(whole, np.zeros(len(whole)), self.length)
        return self._attacked(clips, self.corpus.targets[whole], group + 2)

    def _attacked(self, clips: Tensor, targets: Tensor, seed: int) -> Tensor:
        goal = nn.functional.one_hot(targets, len(self.labels)).float()
        found = []
        for number, (wave, own) in enumerate(zip(clips.split(GROUP), goal.split(GROUP), strict=True)):

            def error(x: Tensor, source: SeededNoise, own: Tensor = own) -> Tensor:
                return cross_entropy(self.recogniser(x).float(), own).sum()

            around = ball("linf", self.config.eps, wave)
            found.append(climb(error, around, self.config.inner, 0.2, SeededNoise(seed).fresh(number)))
        return torch.cat(found)
