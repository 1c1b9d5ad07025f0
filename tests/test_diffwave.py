"""DiffWave against a literal NumPy evaluation of the released network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffwave_reference import (
    TINY,
    authors_state,
    literal_diffwave,
    noise,
    tiny_net,
    write_authors_checkpoint,
)

from audiopure.errors import InputError
from audiopure.nets.diffwave import DiffWave
from audiopure.nets.diffwave_checkpoint import load_diffwave


def test_published_size() -> None:
    with torch.device("meta"):
        net = DiffWave()
    theirs = authors_state(net)
    assert len(theirs) == 408
    assert sum(value.numel() for value in theirs.values()) == 24_071_681
    norms = sum(value.numel() for name, value in theirs.items() if name.endswith("weight_g"))
    ours = sum(parameter.numel() for parameter in net.parameters())
    assert ours == 24_034_305 == 24_071_681 - norms
    assert sum(value.numel() for value in net.state_dict().values()) == ours
    assert theirs["residual_layer.residual_blocks.35.dilated_conv_layer.conv.weight_v"].shape == (512, 256, 3)
    assert [block.dilated.dilation[0] for block in net.blocks] == [2**i for i in range(12)] * 3  # type: ignore[union-attr,index]
    assert net.receptive_field == 3 * 4095


@pytest.mark.parametrize("index", [0, 2, 61.5, 199])
def test_equals_the_literal_network(index: float, tmp_path: Path) -> None:
    state = authors_state(tiny_net())
    net = load_diffwave(write_authors_checkpoint(state, tmp_path / "1000000.pkl"), dilation_cycle=3)
    x = noise(40)
    with torch.no_grad():
        ours = net(x[None], index)[0].numpy()
    expected = literal_diffwave(state, x.double().numpy(), index, cycle=3)
    np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())
    plain_residual = literal_diffwave(state, x.double().numpy(), index, cycle=3, bias_in_place=False)
    assert np.abs(plain_residual - expected).max() > 0.01 * np.abs(expected).max()


def test_block_carries_the_biased_input() -> None:
    block: Any = tiny_net().double().blocks[1]
    x, embedding = noise(2, 6, 20, dtype=torch.float64), noise(2, 9, seed=2, dtype=torch.float64)
    residual, _ = block(x, embedding, None)
    biased = x + block.step(embedding)[:, :, None]
    filtered, gate = block.dilated(biased).chunk(2, dim=1)
    branch = block.residual(filtered.tanh() * gate.sigmoid())
    torch.testing.assert_close(residual, (biased + branch) / 2**0.5)
    assert (residual - (x + branch) / 2**0.5).abs().max() > 0.1


def test_new_network_predicts_zero() -> None:
    net = DiffWave(**TINY)  # type: ignore[arg-type]
    assert net(noise(2, 30), 3).abs().max() == 0


def test_embedding_in_closed_form() -> None:
    with torch.device("meta"):
        embed = DiffWave().embed
    index = torch.tensor([0.0, 7.0, 123.25], dtype=torch.float64)
    features = embed.features(index).numpy()
    angles = index.numpy()[:, None] * 10_000.0 ** (-np.arange(64) / 63)
    np.testing.assert_allclose(features, np.hstack([np.sin(angles), np.cos(angles)]), atol=1e-12)
    assert features[1, 0] == pytest.approx(np.sin(7)) and features[1, 63] == pytest.approx(np.sin(7e-4))
    assert (features[0] == np.repeat([0.0, 1.0], 64)).all()


def test_index_is_continuous_and_per_item() -> None:
    net, x = tiny_net().double(), noise(3, 30, dtype=torch.float64)
    index = torch.tensor([0, 2.5, 150])
    batched = net(x, index)
    for i, one in enumerate(index.tolist()):
        torch.testing.assert_close(batched[i : i + 1], net(x[i : i + 1], one))
    torch.testing.assert_close(net(x, 2), net(x, torch.tensor(2)))
    at, near, between = (net(x, value) for value in (2, 2 + 1e-6, 2.5))
    assert 0 < (near - at).abs().max() < 1e-5 < (between - at).abs().max()
    assert (between - net(x, 3)).abs().max() > 1e-5


def test_half_precision_keeps_fractions_of_the_index() -> None:
    net = tiny_net()
    features = []
    net.embed.first.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    net.bfloat16()(noise(1, 30).bfloat16(), 150.25)
    expected = net.embed.features(torch.tensor([150.25], dtype=torch.float64))
    assert (features[0].double() - expected).abs().max() < 0.01


def test_padded_items_equal_unpadded_ones() -> None:
    net = tiny_net().double()
    lengths = torch.tensor([41, 17, 1, 50])
    x = noise(4, 50, dtype=torch.float64)
    for row, length in zip(x, lengths, strict=True):
        row[int(length) :] = float("nan")  # what lies there must not matter, whatever it is
    index = torch.tensor([1.0, 2.0, 3.0, 4.0])
    padded = net(x, index, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = net(x[i : i + 1, :length], index[i : i + 1])
        torch.testing.assert_close(padded[i : i + 1, :length], alone)
        assert (padded[i, length:] == 0).all()


def test_receptive_field_is_exact() -> None:
    net = tiny_net().double()
    field = net.receptive_field
    assert field == 2 * (1 + 2 + 4)
    x = noise(1, 4 * field, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, 2)[0, 2 * field], x)
    reached = gradient[0].nonzero()[:, 0]
    assert (reached.min(), reached.max()) == (field, 3 * field)


def test_input_gradient_against_finite_differences() -> None:
    net = tiny_net(channels=3, skip_channels=3, layers=3).double().requires_grad_(False)
    x = noise(2, 9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(x, 2.5, torch.tensor([9, 6])), (x,))


def test_every_trainable_parameter_has_a_gradient() -> None:
    """The last block's unused residual layer is frozen, as unused trainable parameters stop DDP."""
    net = tiny_net()
    net(noise(2, 30), 2).square().mean().backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == ["blocks.5.residual.weight", "blocks.5.residual.bias"]
    assert not any(dict(net.named_parameters())[name].requires_grad for name in without)


def test_callers_tensors_are_not_modified() -> None:
    net = tiny_net()
    x, index, lengths = noise(2, 30), torch.tensor([1.0, 2.0]), torch.tensor([30, 20])
    kept = [value.clone() for value in (x, index, lengths)]
    net(x, index, lengths)
    net(x, index)
    for value, copy in zip((x, index, lengths), kept, strict=True):
        assert torch.equal(value, copy) and value._version == 0


def test_config_rebuilds_the_network() -> None:
    net = tiny_net()
    again = DiffWave(**net.config)
    again.load_state_dict(net.state_dict())
    x = noise(2, 30)
    assert torch.equal(again(x, 2), net(x, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda net: net(torch.zeros(30), 1),
        lambda net: net(torch.zeros(2, 0), 1),
        lambda net: net(torch.zeros(2, 30, dtype=torch.int16), 1),
        lambda net: net(torch.zeros(2, 30), torch.zeros(3)),
        lambda net: net(torch.zeros(2, 30), 1, torch.tensor([30])),
        lambda net: DiffWave(layers=0),
        lambda net: DiffWave(channels=2.5),  # type: ignore[arg-type]
        lambda net: DiffWave(embed_features=7),
        lambda net: DiffWave(beta_first=0.5, beta_last=0.1),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[DiffWave], object]) -> None:
    with pytest.raises(InputError):
        call(tiny_net())
