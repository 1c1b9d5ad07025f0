"""The paper's five recognisers: published sizes, shapes, gradients, and refusal of unusable input."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from audiopure.errors import InputError
from audiopure.nets.densenet import DenseNetBC
from audiopure.nets.m5 import M5
from audiopure.nets.mel_recogniser import MelRecogniser
from audiopure.nets.resnext import ResNeXt29
from audiopure.nets.vgg import VGG19BN
from audiopure.nets.wideresnet import WideResNet28

# Parameters and state-dict entries of the networks that the paper's authors released.
SIZES = {
    ResNeXt29: (34_425_546, 188),
    VGG19BN: (38_957_770, 118),
    WideResNet28: (36_478_906, 155),
    DenseNetBC: (768_730, 596),
    M5: (25_290, 30),
}
IMAGE_NETWORKS = [ResNeXt29, VGG19BN, WideResNet28, DenseNetBC]
LAYERS = {ResNeXt29: 29, VGG19BN: 19, WideResNet28: 28, DenseNetBC: 100, M5: 5}


@pytest.mark.parametrize("architecture", SIZES)
def test_published_parameters_and_depth(architecture):
    with torch.device("meta"):
        network = architecture()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (parameters, len(network.state_dict())) == SIZES[architecture]
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)}
    if architecture is WideResNet28:  # its authors count convolutions, those of the shortcuts included
        counted = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    else:  # the others count weight layers on the main path
        counted = [name for name in layers if "shortcut" not in name]
    assert len(counted) == LAYERS[architecture]


@pytest.mark.parametrize("architecture", IMAGE_NETWORKS)
def test_images_to_logits_with_gradient_to_the_input(architecture):
    torch.manual_seed(0)
    network = architecture(n_classes=7).eval()
    images = torch.randn(2, 1, 32, 32, requires_grad=True)
    logits = network(images)
    assert logits.shape == (2, 7)
    (gradient,) = torch.autograd.grad(logits[0].square().sum(), images)
    assert gradient.isfinite().all()
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0


def test_m5_gives_log_probabilities_and_gradient():
    network = M5(labels=["yes", "no", "up"]).eval()
    assert network.labels == ("yes", "no", "up")
    waveform = 0.1 * torch.randn(2, 1, 16000, generator=torch.Generator().manual_seed(0))
    output = network(waveform.requires_grad_())
    torch.testing.assert_close(output.exp().sum(-1), torch.ones(2))
    torch.testing.assert_close(network(waveform.squeeze(1)), output)
    (gradient,) = torch.autograd.grad(output[:, 0].sum(), waveform)
    assert (gradient.abs().amax(dim=-1) > 0).all()


def test_m5_pads_short_clips_and_hears_long_ones_whole():
    torch.manual_seed(0)
    network = M5().eval()
    clip = 0.1 * torch.randn(1, 24000)
    short = clip[:, :6000]
    torch.testing.assert_close(network(short), network(torch.nn.functional.pad(short, (0, 10000))))
    assert not torch.allclose(network(clip), network(clip[:, :16000]))


def test_m5_knows_the_shortest_clip_its_poolings_allow():
    assert M5(samples=6848).eval()(torch.zeros(1, 100)).shape == (1, 10)
    with pytest.raises(InputError, match="6848"):
        M5(samples=6847)
    with pytest.raises(RuntimeError):
        M5().features(torch.zeros(1, 1, 6847))


def test_mel_recogniser_is_blind_to_trailing_zeros_and_passes_gradients():
    torch.manual_seed(0)
    recogniser = MelRecogniser("densenetbc", labels=["a", "b"], options={"depth": 10}).eval()
    assert (recogniser.labels, recogniser.sample_rate) == (("a", "b"), 16000)
    short = 0.1 * torch.randn(2, 9000)
    longer = torch.cat([short, torch.zeros(2, 9000)], dim=1)
    torch.testing.assert_close(recogniser(short), recogniser(longer))
    waveform = short.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(recogniser(waveform)[:, 0].sum(), waveform)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize(
    "network",
    [
        DenseNetBC(n_classes=3, depth=10, growth=4),
        M5(labels=["a", "b"]),
        MelRecogniser("densenetbc", labels=["a"], options={"depth": 10}),
    ],
    ids=lambda network: type(network).__name__,
)
def test_config_rebuilds_the_network(network):
    twin = type(network)(**json.loads(json.dumps(network.config)))
    twin.load_state_dict(network.state_dict())
    assert twin.config == network.config


def test_impossible_arguments_are_refused():
    with pytest.raises(InputError, match="6 n"):
        DenseNetBC(depth=99)
    with pytest.raises(InputError, match="resnext29"):
        MelRecogniser("resnext")
    with pytest.raises(InputError, match="32 x 32"):
        VGG19BN()(torch.zeros(1, 1, 32, 31))
    with pytest.raises(InputError, match="B, 1, T"):
        M5()(torch.zeros(2, 2, 16000))
    with pytest.raises(InputError, match=r"\(B, T\)"):
        MelRecogniser("densenetbc", options={"depth": 10})(torch.zeros(16000))
