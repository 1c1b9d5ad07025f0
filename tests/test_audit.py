"""Every system whose accuracy under attack is published: its gradient is the true one, from loss to waveform.

The audit itself is tested in `test_gradient_audit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure.evaluation.auditing.audit import audit
from audiopure.nets.ai8x import Ai8xKws20
from audiopure.noise import SeededNoise

NOISE = SeededNoise(3)


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
    victim = MODELS[model]()
    if defence == "none":
        return victim
    return audiopure.defend(victim, audiopure.load_purifier().replace(reverse=defence == "purified"))


def speech_like() -> Tensor:
    time = torch.arange(3200) / 16_000
    tones = [torch.sin(2 * torch.pi * f * time) for f in (140, 700, 1900)]
    return 0.08 * torch.stack(tones).sum(0, keepdim=True) + 0.005 * NOISE.normal((1, 3200), draw=9)


@pytest.mark.parametrize("defence", ["none", "noise only", "purified"])
@pytest.mark.parametrize("model", MODELS)
def test_the_attacks_gradient_is_the_derivative_of_its_loss(model: str, defence: str) -> None:
    report = audit(
        system(model, defence), speech_like(), torch.tensor([4]), noise=NOISE, draws=1, directions=4, probes=2
    )
    assert report.verdict == "exact" and report.modules == [] and report.precision == "float64"
    # 1e-4 of the gradient's length in every single direction
    assert report.cosine > 1 - 1e-6 and report.relative_error < 1e-3
    assert all(clip.along == pytest.approx(1, abs=1e-4) for clip in report.clips)
