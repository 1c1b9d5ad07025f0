"""Reads the checkpoint files of the released unconditional DiffWave, without running code from them.

Such a file is a `torch.save`d dictionary whose `model_state_dict` holds the network, convolutions in the form
of weight normalisation (Salimans & Kingma 2016, w = g v / ||v||), which is fused here into plain weights.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, WeightsError
from .diffwave import DiffWave

BLOCK = re.compile(r"residual_layer\.residual_blocks\.(\d+)\.")
NAMED_PROBLEMS = 3


class Size(NamedTuple):
    """What a file's tensors say about its network, in `DiffWave`'s terms."""

    channels: int
    skip_channels: int
    layers: int
    embed_features: int
    embed_hidden: int
    embed_out: int


class Layer(NamedTuple):
    """One layer: its name in the file, its name in `DiffWave`, its weight's shape, how it is stored."""

    theirs: str
    ours: str
    shape: tuple[int, ...]
    weight_norm: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the layer's entries in the file."""
        bias = {f"{self.theirs}.bias": self.shape[:1]}
        if not self.weight_norm:
            return {f"{self.theirs}.weight": self.shape, **bias}
        norms = (self.shape[0], *(1 for _ in self.shape[1:]))
        return {f"{self.theirs}.weight_g": norms, f"{self.theirs}.weight_v": self.shape, **bias}


def layers_of(size: Size) -> Iterator[Layer]:
    """Every layer that a network of this size has in the authors' format."""
    wide, skip = size.channels, size.skip_channels
    yield Layer("init_conv.0.conv", "input", (wide, 1, 1), True)
    yield Layer("residual_layer.fc_t1", "embed.first", (size.embed_hidden, size.embed_features), False)
    yield Layer("residual_layer.fc_t2", "embed.second", (size.embed_out, size.embed_hidden), False)
    for i in range(size.layers):
        theirs, ours = f"residual_layer.residual_blocks.{i}", f"blocks.{i}"
        yield Layer(f"{theirs}.fc_t", f"{ours}.step", (wide, size.embed_out), False)
        yield Layer(f"{theirs}.dilated_conv_layer.conv", f"{ours}.dilated", (2 * wide, wide, 3), True)
        yield Layer(f"{theirs}.res_conv", f"{ours}.residual", (wide, wide, 1), True)
        yield Layer(f"{theirs}.skip_conv", f"{ours}.skip", (skip, wide, 1), True)
    yield Layer("final_conv.0.conv", "head", (skip, skip, 1), True)
    yield Layer("final_conv.2.conv", "output", (1, skip, 1), False)


def read_authors_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a released DiffWave checkpoint, fused, float32, on the CPU, under `DiffWave`'s names.

    Accepts a dictionary with `model_state_dict` or a bare state dict, with or without the prefix `module.`
    that data-parallel training leaves. Nothing in the file is executed.

    Raises:
        WeightsError: if the file is missing, damaged, could only be read by running its code, or if any entry
            is missing, unexpected, of a wrong shape or not finite.
    """
    state = _state_dict(_load(path), path)
    size = _infer_size(state, path)
    layers = list(layers_of(size))
    _check_entries(state, layers, path)
    fused: dict[str, Tensor] = {}
    for layer in layers:
        fused[f"{layer.ours}.weight"] = _weight(state, layer)
        fused[f"{layer.ours}.bias"] = state[f"{layer.theirs}.bias"].float()
    for name, value in fused.items():
        if not value.isfinite().all():
            raise WeightsError(f"{path}: {name} holds values that are not finite.")
    return fused


def load_diffwave(path: str | Path, dilation_cycle: int = 12) -> DiffWave:
    """The network of a released checkpoint, its size read off the tensors.

    Args:
        path: the file, `1000000.pkl` say.
        dilation_cycle: the one number of the architecture that leaves no trace in a file; the released SC09
            network has 12.

    Raises:
        WeightsError: as `read_authors_checkpoint`, and if the layers do not make whole dilation cycles, which
            nearly always means a wrong `dilation_cycle` (for such a network build `DiffWave` yourself).
    """
    weights = read_authors_checkpoint(path)
    layers = sum(name.endswith(".dilated.weight") for name in weights)
    if dilation_cycle < 1 or layers % dilation_cycle:
        raise WeightsError(
            f"{path}: its {layers} layers do not make whole dilation cycles of {dilation_cycle}; "
            "give the dilation_cycle that the network was trained with."
        )
    embed_hidden, embed_features = weights["embed.first.weight"].shape
    try:
        with torch.device("meta"):
            net = DiffWave(
                channels=weights["input.weight"].shape[0],
                skip_channels=weights["head.weight"].shape[0],
                layers=layers,
                dilation_cycle=dilation_cycle,
                embed_features=embed_features,
                embed_hidden=embed_hidden,
                embed_out=weights["embed.second.weight"].shape[0],
            )
    except InputError as error:
        raise WeightsError(f"{path}: {error}") from error
    net.load_state_dict(weights, assign=True)
    return net


def _load(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged or holds more than plain tensors and could only be read by running code "
            "from it, which is refused."
        ) from error
    except Exception as error:  # what torch.load raises on damaged files is not documented and varies
        raise WeightsError(f"{path} is not a PyTorch checkpoint, or is damaged.") from error


def _state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and "model_state_dict" in content:
        content = content["model_state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(k, str) for k in content):
        raise WeightsError(f"{path} holds no state dict of a network.")
    for name, value in content.items():
        plain = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
        if not plain or not value.is_floating_point():
            raise WeightsError(f"{path}: {name} is not a dense tensor of floating-point numbers.")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value.detach() for name, value in content.items()}


def _infer_size(state: dict[str, Tensor], path: str | Path) -> Size:
    """Read the size off a few tensors; whether the others agree is `_check_entries`' business."""

    def shape(name: str, dimensions: int) -> torch.Size:
        if name not in state or state[name].ndim != dimensions:
            raise WeightsError(f"{path} is not an unconditional DiffWave: it has no usable {name}.")
        return state[name].shape

    shape("residual_layer.residual_blocks.0.fc_t.weight", 2)
    indices = {match[1] for match in map(BLOCK.match, state) if match}
    embed_hidden, embed_features = shape("residual_layer.fc_t1.weight", 2)
    return Size(
        channels=shape("init_conv.0.conv.weight_v", 3)[0],
        skip_channels=shape("final_conv.0.conv.weight_v", 3)[0],
        layers=len(indices),
        embed_features=embed_features,
        embed_hidden=embed_hidden,
        embed_out=shape("residual_layer.fc_t2.weight", 2)[0],
    )


def _check_entries(state: dict[str, Tensor], layers: list[Layer], path: str | Path) -> None:
    expected = {name: shape for layer in layers for name, shape in layer.tensors().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of a wrong shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    told = [f"{_some(names)} {what}" for what, names in problems.items() if names]
    if told:
        raise WeightsError(f"{path} is not an unconditional DiffWave: {'; '.join(told)}.")


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_PROBLEMS
    return ", ".join(names[:NAMED_PROBLEMS]) + (f" and {more} more" if more > 0 else "")


def _weight(state: dict[str, Tensor], layer: Layer) -> Tensor:
    if not layer.weight_norm:
        return state[f"{layer.theirs}.weight"].float()
    g, v = (state[f"{layer.theirs}.weight_{part}"].double() for part in "gv")
    norm = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True)
    return (g * v / norm).float()
