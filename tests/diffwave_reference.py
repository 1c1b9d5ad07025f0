"""A literal evaluation of the released DiffWave, and a writer of its checkpoint format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiopure.nets.diffwave import DiffWave

TINY = {
    "channels": 6,
    "skip_channels": 5,
    "layers": 6,
    "dilation_cycle": 3,
    "embed_features": 8,
    "embed_hidden": 7,
    "embed_out": 9,
}
State = dict[str, Tensor]


def tiny_net(seed: int = 0, **changes: int) -> DiffWave:
    """A small network with an output layer that is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = DiffWave(**(TINY | changes))  # type: ignore[arg-type]
        for parameter in net.output.parameters():
            torch.nn.init.normal_(parameter)
    return net


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def authors_state(net: DiffWave) -> State:
    """The network's weights as the released code stores them, convolutions split for weight normalisation."""
    state: State = {}

    def plain(theirs: str, layer: Any) -> None:
        state[f"{theirs}.weight"], state[f"{theirs}.bias"] = layer.weight, layer.bias

    def normed(theirs: str, layer: Any) -> None:
        norm = layer.weight.flatten(1).norm(dim=1)[:, None, None]
        state[f"{theirs}.bias"] = layer.bias
        state[f"{theirs}.weight_g"], state[f"{theirs}.weight_v"] = norm, layer.weight * (1 + 3 * norm)

    normed("init_conv.0.conv", net.input)
    plain("residual_layer.fc_t1", net.embed.first)
    plain("residual_layer.fc_t2", net.embed.second)
    for i, block in enumerate(net.blocks):
        theirs: Any = f"residual_layer.residual_blocks.{i}"
        ours: Any = block
        plain(f"{theirs}.fc_t", ours.step)
        normed(f"{theirs}.dilated_conv_layer.conv", ours.dilated)
        normed(f"{theirs}.res_conv", ours.residual)
        normed(f"{theirs}.skip_conv", ours.skip)
    normed("final_conv.0.conv", net.head)
    plain("final_conv.2.conv", net.output)
    return {name: value.detach().clone() for name, value in state.items()}


def write_authors_checkpoint(state: State, path: Path, **options: Any) -> Path:
    """A training checkpoint as the released code writes it, with the state of its optimiser."""
    parameters = [torch.nn.Parameter(value.clone()) for value in state.values()]
    optimiser = torch.optim.Adam(parameters, lr=2e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()  # fills the moments; the weights saved are those given
    content = {"model_state_dict": state, "optimizer_state_dict": optimiser.state_dict()}
    torch.save(content, path, **options)
    return path


def _sigmoid(h: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-h))


def _conv(w: dict[str, np.ndarray], name: str, h: np.ndarray, dilation: int = 1) -> np.ndarray:
    """A convolution (channels, T) in either form, one tap at a time."""
    kernel = w.get(f"{name}.weight")
    if kernel is None:
        v = w[f"{name}.weight_v"]
        lengths = np.array([np.sqrt((v[o] ** 2).sum()) for o in range(len(v))])
        kernel = w[f"{name}.weight_g"] * v / lengths[:, None, None]
    taps, time = kernel.shape[2], h.shape[1]
    reach = dilation * (taps // 2)
    padded = np.pad(h, ((0, 0), (reach, reach)))
    out = np.repeat(w[f"{name}.bias"][:, None], time, axis=1)
    for tap in range(taps):
        out += kernel[:, :, tap] @ padded[:, tap * dilation : tap * dilation + time]
    return out


def _step(w: dict[str, np.ndarray], index: float) -> np.ndarray:
    half = w["residual_layer.fc_t1.weight"].shape[1] // 2
    angles = [index / 10_000 ** (k / (half - 1)) for k in range(half)]
    e = np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles])
    for name in ("residual_layer.fc_t1", "residual_layer.fc_t2"):
        e = w[f"{name}.weight"] @ e + w[f"{name}.bias"]
        e = e * _sigmoid(e)
    return e


def literal_diffwave(
    state: State, x: np.ndarray, index: float, cycle: int, bias_in_place: bool = True
) -> np.ndarray:
    """One clip (T,) through the released network as its description reads, in float64."""
    w = {name: value.double().numpy() for name, value in state.items()}
    e = _step(w, index)
    h = np.maximum(_conv(w, "init_conv.0.conv", x[None]), 0)
    skips: list[np.ndarray] = []
    while f"residual_layer.residual_blocks.{len(skips)}.fc_t.bias" in w:
        block = f"residual_layer.residual_blocks.{len(skips)}"
        biased = h + (w[f"{block}.fc_t.weight"] @ e + w[f"{block}.fc_t.bias"])[:, None]
        z = _conv(w, f"{block}.dilated_conv_layer.conv", biased, dilation=2 ** (len(skips) % cycle))
        gated = np.tanh(z[: len(h)]) * _sigmoid(z[len(h) :])
        skips.append(_conv(w, f"{block}.skip_conv", gated))
        h = ((biased if bias_in_place else h) + _conv(w, f"{block}.res_conv", gated)) / np.sqrt(2)
    total = np.sum(skips, axis=0) * np.sqrt(1 / len(skips))
    return _conv(w, "final_conv.2.conv", np.maximum(_conv(w, "final_conv.0.conv", total), 0))[0]
