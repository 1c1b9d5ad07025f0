"""Recipe `purifier`: what stands before a recogniser, trained through it; the recogniser stays as it is.

With the methods of `adversarial` the whole system is attacked and only the defence learns: Joshi et al. 2022
for a denoiser without noise of its own (Conv-TasNet), end-to-end training for a diffusion model. With "ssp"
no recogniser is asked: clips are perturbed against a fixed feature, and the purified shall be the clip again
(Naseer et al. 2020; S23 to S27). Clips get no noise beforehand: what is to come back must be without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from audiopure import hub
from audiopure.api import as_denoiser
from audiopure.choices import SAMPLERS, choose
from audiopure.defences.learned import Enhancer
from audiopure.errors import InputError
from audiopure.frontend import MelSpectrogram
from audiopure.level import SpeechLevel
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.training.adversarial import AdversarialRecipe
from audiopure.training.adversarial_config import AdversarialConfig
from audiopure.training.adversarial_methods import climb

KINDS = ("denoiser", "eps", "enhancer")  # of weights that stand before a recogniser


class PurifierConfig(AdversarialConfig):
    """Settings of the recipe, beside those of `adversarial`.

    Attributes:
        initial: weights of the defence to begin with.
        recogniser: weights of the recogniser.
        n_star, sampler: of a diffusion model.
        error: weight of the logarithm of the squared error of purified clean clips, relative to the forward
            noise or, where there is none, to the clip.
        feature: weight of the second term of S25 ("ssp").

    `noise` and `background` have no effect here.
    """

    method: Literal["pgd", "fast", "free", "trades", "ssp"] = "pgd"  # type: ignore[assignment]
    initial: str | None = "small"
    recogniser: str = "digits"
    n_star: float = Field(default=3, gt=0)
    sampler: str = "ddpm"
    error: float = Field(default=0.3, ge=0)
    feature: float = Field(default=0.1, ge=0)


class PurifierRecipe(AdversarialRecipe):
    config: PurifierConfig
    noisy = False

    def __init__(self, config: PurifierConfig, root: Path):
        super().__init__(config, root)
        if config.initial is None or config.defence is not None:
            raise InputError("the recipe `purifier` needs `initial`, and has no other `defence` before it")
        self.facts = hub.describe(config.initial)
        self.kind = self.facts["kind"]
        self.nats = config.method != "ssp"
        if self.kind not in KINDS:
            raise InputError(f"{config.initial} holds a {self.kind}, not what stands before a recogniser")
        self.recogniser = self.hears(config.recogniser)
        self.mel = MelSpectrogram()

    def build(self) -> nn.Module:
        assert self.config.initial is not None
        return hub.load(self.config.initial).requires_grad_(True)

    def judged(self, means: dict[str, float]) -> float:
        """As for recognisers; for "ssp", which does not aim at answers, minus its loss."""
        return -means["loss"] if self.config.method == "ssp" else super().judged(means)

    def front(self, model: nn.Module) -> Purifier | Enhancer:
        """The defence whose weights `model` holds."""
        if self.kind == "enhancer":
            return Enhancer(model)
        denoiser, schedule = as_denoiser(model, self.facts)
        return Purifier(
            denoiser,
            n_star=self.config.n_star,
            schedule=schedule,
            sampler=choose("sampler", SAMPLERS, self.config.sampler),
            level=SpeechLevel(),
        )

    def hear(self, model: nn.Module, wave: Tensor, noise: SeededNoise) -> Tensor:
        clean = self.front(model)(wave, noise=noise)
        return self.recogniser.to(wave.device)(clean).float()

    def objective(self, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
        if self.config.method == "ssp":
            return sum(self._ssp(model, wave, noise), start=wave.new_zeros(()))
        found = super().objective(model, wave, targets, noise)
        if self.config.error == 0:
            return found
        front = self.front(model)
        apart = (front(wave, noise=noise.fresh(2)) - wave).square().mean(1)
        unit = wave.square().mean(1) + 1e-8
        if isinstance(front, Purifier):
            gain = front.level.gain(front.level.energy(wave))  # type: ignore[arg-type]
            unit = (front.sigma if gain is None else front.sigma / gain[:, 0]) ** 2
        return found + self.config.error * torch.log(apart / unit + 1e-3).mean()

    def terms(self, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> dict[str, Tensor]:
        """For "ssp" also both terms of the loss."""
        if self.config.method != "ssp":
            return super().terms(model, wave, targets, noise)
        audio, feature = self._ssp(model, wave, noise)
        return {"loss": audio + feature, "audio": audio, "feature": feature}

    def _ssp(self, model: nn.Module, wave: Tensor, noise: SeededNoise) -> tuple[Tensor, Tensor]:
        """Both terms of S25, S26 and weighted S27, for clips that S23 and S24 have perturbed."""
        mel = self.mel.to(wave.device)
        known = mel(wave)
        config, found = self.config, wave.clone()
        for number, (rows, around) in enumerate(self.balls(wave)):

            def apart(x: Tensor, source: SeededNoise, own: Tensor = known[rows]) -> Tensor:
                return (mel(x) - own).abs().flatten(1).amax(1).sum()

            found[rows] = climb(apart, around, config.inner, config.step, noise.fresh(number))
        clean = self.front(model)(found, noise=noise.fresh(9))
        audio = (clean - wave).square().mean()
        return audio, config.feature * (mel(clean) - known).square().mean()
