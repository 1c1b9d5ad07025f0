"""Recipe `adversarial`: recognisers trained on what attacks make of their clips, or against steep slopes.

The methods are those of `adversarial_methods`. Several budgets share a batch in turn. With a defence, attacks
and training go through it, with exact gradients.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball, ball
from audiopure.errors import InputError
from audiopure.noise import SeededNoise
from audiopure.training.adversarial_config import AdversarialConfig
from audiopure.training.adversarial_methods import METHODS, Loss, climb, cross_entropy, logits_and_slope
from audiopure.training.recogniser import RecogniserRecipe
from audiopure.training.together import team

HELD_OUT = 200  # clips of the validation split that are attacked
JUDGED = 10  # steps of that attack


class AdversarialRecipe(RecogniserRecipe):
    config: AdversarialConfig

    def __init__(self, config: AdversarialConfig, root: Path):
        super().__init__(config, root)
        if config.method == "free" and (
            config.checkpoint_every % config.replays or config.validate_every % config.replays
        ):
            raise InputError(
                f"checkpoints and validations must fall on every {config.replays} steps, a batch's replays"
            )
        if config.method == "yopo" and config.inner % config.cheap:
            raise InputError(
                f"yopo's {config.inner} steps must be a multiple of {config.cheap}, those of a pass"
            )
        self.defence: nn.Module | None = None
        if config.defence is not None:
            from audiopure.systems import load_defence

            self.defence = load_defence(config.defence)
        self.keep_held_out(HELD_OUT)
        self.moved: Tensor | None = None  # clips of the replay before, whose gradient moves them

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Waveforms (B, T), soft targets (B, labels), and the step."""
        number = step // self.config.replays if self.config.method == "free" else step
        wave, targets, _ = super().batch(number)
        return wave.clamp(-1, 1), targets, torch.tensor(step)  # budgets are within full scale

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        wave, targets, step = batch
        if int(step) % self.config.replays == 0:
            self.moved = None  # another batch
        noise = team().own(SeededNoise(self.config.seed).fresh(int(step)))
        return self.objective(model, wave, targets, noise)

    def objective(self, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
        """Mean loss of clips (B, T) with soft targets (B, labels), by the method."""
        return METHODS[self.config.method](self, model, wave, targets, noise)

    @torch.no_grad()  # attacks enable gradients for themselves
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy clean and under each budget, whose mean is the score, and the loss as in training.

        For "jacobian" also the mean norm (`slope`) and what it adds to the loss (`penalty`).
        """
        device = next(model.parameters()).device
        found: dict[str, list[Tensor]] = {}
        for number, (wave, target) in enumerate(
            zip(self.held_out.split(50), self.targets.split(50), strict=True)
        ):
            wave, target = wave.to(device), target.to(device)
            measured = self._measured(model, wave, target, SeededNoise(self.config.seed).fresh(number))
            for name, value in measured.items():
                found.setdefault(name, []).append(value.float())
        means = {name: torch.cat(parts).mean().item() for name, parts in found.items()}
        return {"score": self.judged(means), **means}

    def judged(self, means: dict[str, float]) -> float:
        """The score of what validation found: the mean of all accuracies."""
        scores = [value for name, value in means.items() if name.startswith("accuracy")]
        return sum(scores) / len(scores)

    def _measured(
        self, model: nn.Module, wave: Tensor, target: Tensor, noise: SeededNoise
    ) -> dict[str, Tensor]:
        """What validation means over clips: each (B,)."""
        goal = nn.functional.one_hot(target, len(self.labels)).float()
        heard = {"accuracy": wave}
        for norm, eps in self.config.budgets.items():
            around = ball(norm, eps, wave)
            heard[f"accuracy_{norm}"] = climb(self.error(model, goal), around, JUDGED, 0.25, noise.fresh(1))
        found = {
            name: self.hear(model, sound, noise.fresh(2)).argmax(1) == target for name, sound in heard.items()
        }
        found |= self.terms(model, wave, goal, noise.fresh(3))
        return {name: value.detach().expand(len(wave)) for name, value in found.items()}

    def terms(self, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> dict[str, Tensor]:
        """The loss, and what a method is known by beside it: scalars, or one for each clip."""
        if self.config.method != "jacobian":
            return {"loss": self.objective(model, wave, targets, noise)}
        logits, slope = logits_and_slope(self, model, wave, noise)
        penalty = self.config.slope * slope
        return {"loss": cross_entropy(logits, targets) + penalty, "slope": slope, "penalty": penalty}

    def hear(self, model: nn.Module, wave: Tensor, noise: SeededNoise) -> Tensor:
        """Logits in float32, through the defence if there is one."""
        if self.defence is not None:
            wave = self.defence.to(wave.device)(wave, noise=noise)
        return model(wave).float()

    def balls(self, wave: Tensor) -> list[tuple[slice, Ball]]:
        """The rows of each budget, in turn, with the ball around them."""
        count = len(self.config.budgets)
        parts = [slice(k, None, count) for k in range(count)]
        return [
            (part, ball(norm, eps, wave[part]))
            for part, (norm, eps) in zip(parts, self.config.budgets.items(), strict=True)
            if len(wave[part])
        ]

    def error(self, model: nn.Module, targets: Tensor) -> Loss:
        """What attacks climb."""

        def error(wave: Tensor, noise: SeededNoise) -> Tensor:
            return cross_entropy(self.hear(model, wave, noise), targets).sum()

        return error
