"""Every system whose accuracy under attack is published: its gradient is the true one, from loss to waveform.

The noise is frozen and everything runs in float64, so a central difference along a direction is the
derivative to many digits. A `no_grad`, a detach or a rounding anywhere in the path would show.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure.attacks.objective import Objective
from audiopure.nets.ai8x import Ai8xKws20
from audiopure.noise import SeededNoise

NOISE = SeededNoise(3)
WIDTH = 1e-8  # of the difference, in L2: short enough to cross next to no kink of the thousands of ReLUs
LABELS = torch.tensor([4, 7])


def third_party() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Ai8xKws20().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(2.5)  # logits of fresh weights hardly depend on the sound
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "digits": partial(audiopure.load_recogniser, "digits"),
    "m5": partial(audiopure.load_recogniser, "m5"),
    "ai8x": third_party,
}


def system(model: str, defence: str) -> nn.Module:
    victim = MODELS[model]().double()
    if defence == "none":
        return victim
    purifier = audiopure.load_purifier().double()
    return audiopure.defend(victim, purifier.replace(reverse=defence == "purified"))


def speech_like() -> Tensor:
    time = torch.arange(8000, dtype=torch.float64) / 16_000
    tones = [torch.sin(2 * torch.pi * f * time) for f in (140, 700, 1900)]
    noise = NOISE.normal((2, 8000), draw=9, dtype=torch.float64)
    return 0.08 * torch.stack(tones).sum(0) * torch.tensor([[1.0], [0.4]]) + 0.005 * noise


@pytest.mark.parametrize("defence", ["none", "noise only", "purified"])
@pytest.mark.parametrize("model", MODELS)
def test_the_attacks_gradient_is_the_derivative_of_its_loss(model: str, defence: str) -> None:
    objective = Objective(system(model, defence), LABELS, "ce", False, None, 64)
    x = speech_like()
    loss, _, gradient = objective.gradient(x, NOISE, 2)
    assert gradient.isfinite().all() and bool((gradient.norm(dim=1) > 0).all())
    directions = [gradient, gradient.sign(), NOISE.normal((2, 8000), draw=8, dtype=torch.float64)]
    for direction in directions:
        step = WIDTH * direction / direction.norm(dim=1, keepdim=True)
        ahead, behind = (objective.value(x + sign * step, NOISE, 2) for sign in (1, -1))
        slope = (ahead - behind) / (2 * WIDTH)
        expected = (gradient * step).sum(1) / WIDTH
        size = gradient.norm(dim=1)
        assert bool(((slope - expected).abs() < 1e-4 * size).all()), (slope, expected, size)
    assert torch.equal(loss, objective.value(x, NOISE, 2))
