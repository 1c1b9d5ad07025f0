"""Folded normalisation: the same function, gradients and parameters as layer after layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from audiopure import SeededNoise
from audiopure.nets.folding import Folding


def layers(bias: bool) -> list[nn.Module]:
    """Two normalised convolutions, a plain one, and a normalisation that follows none; nothing is trivial."""
    found = [
        nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=bias),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 6, 1, bias=bias),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 3, bias=bias),
        nn.ReLU(),
        nn.BatchNorm2d(4),
    ]
    for number, value in enumerate(v for layer in found for v in layer.state_dict().values()):
        if value.is_floating_point():
            drawn = SeededNoise(number).normal((1, value.numel()), draw=0)[0].reshape(value.shape)
            value.copy_(drawn if value.ndim > 1 else 0.5 + drawn.abs())
    return found


def image(batch: int = 2) -> Tensor:
    drawn = SeededNoise(99).normal((batch, 3 * 12 * 10), draw=0, dtype=torch.float64)
    return drawn.reshape(batch, 3, 12, 10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_sequence_of_its_layers(bias: bool, training: bool) -> None:
    plain = nn.Sequential(*layers(bias)).double().train(training)
    folded = Folding(*copy.deepcopy(list(plain))).train(training)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    inputs = [image().requires_grad_(True) for _ in range(2)]
    outputs = [net(x) for net, x in zip((plain, folded), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-10)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-9)
    for (name, one), other in zip(plain.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-8, msg=name)
    for one, other in zip(plain.buffers(), folded.buffers(), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}])
def test_what_lacks_weights_or_statistics_is_left_as_it_is(settings: dict[str, bool], training: bool) -> None:
    norm = nn.BatchNorm2d(5, **settings)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.ReLU()).double().train(training)
    folded = Folding(*copy.deepcopy(list(plain))).train(training)
    torch.testing.assert_close(folded(image()), plain(image()), rtol=1e-10, atol=1e-10)
    for one, other in zip(plain.buffers(), folded.buffers(), strict=True):
        torch.testing.assert_close(other, one)


def test_only_normalisations_in_eval_mode_are_folded() -> None:
    net = Folding(*layers(False)).eval()
    called: list[str] = []
    for name, layer in net.named_children():
        layer.register_forward_hook(lambda module, given, result, name=name: called.append(name))
    net(image().float())
    assert called == ["2", "6", "7"]
    called.clear()
    net[1].train()
    net(image().float())
    assert called == ["1", "2", "6", "7"]
