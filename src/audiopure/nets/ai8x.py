"""A keyword recogniser trained by others: KWS20 v3 of Analog Devices (Maxim) for the MAX78000.

It stands for any model one did not train and cannot change. Its published weights come from training with
8-bit quantisation in the loop; here they run in floating point, without the rounding of activations the chip
does, which keeps the accuracy and lets gradients through. Source: github analogdevicesinc/ai8x-synthesis,
`trained/ai85-kws20_v3-qat8.pth.tar`, Apache-2.0.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiopure.errors import InputError, WeightsError

LABELS = (
    *("up", "down", "left", "right", "stop", "go", "yes", "no", "on", "off"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero", "_unknown_"),
)
_SAMPLES = 16384
_FOLD = 128  # consecutive samples that become the channels of one time step
_CEILING = 127 / 128  # the largest activation of the chip's signed 8 bits
_PREFIX, _SUFFIX = "module.", ".op.weight"  # the keys that count; others are left-overs of the training


def _convolution(inputs: int, outputs: int, kernel: int, padding: int) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, padding=padding, bias=False)


class Ai8xKws20(nn.Module):
    """KWS20 v3: eight bias-free convolutions over 128 folded samples a step; 20 words and `_unknown_`.

    Shape: waveforms `(B, T)` at 16 kHz in [-1, 1], cut or padded with zeros at the end to 16384 samples
    -> logits `(B, 21)`.
    """

    labels = LABELS
    sample_rate = 16000

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.voice_conv1 = _convolution(_FOLD, 100, 1, 0)
        self.voice_conv2 = _convolution(100, 96, 3, 0)
        self.voice_conv3 = _convolution(96, 64, 3, 1)
        self.voice_conv4 = _convolution(64, 48, 3, 0)
        self.kws_conv1 = _convolution(48, 64, 3, 1)
        self.kws_conv2 = _convolution(64, 96, 3, 0)
        self.kws_conv3 = _convolution(96, 100, 3, 1)
        self.kws_conv4 = _convolution(100, 64, 6, 1)
        self.fc = nn.Linear(64 * 4, len(LABELS), bias=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Logits of waveforms `(B, T)`; raises InputError for any other number of axes."""
        if waveform.ndim != 2:
            raise InputError(f"a recogniser takes waveforms (B, T), got shape {tuple(waveform.shape)}")
        clip = F.pad(waveform, (0, _SAMPLES - waveform.shape[-1]))
        h = clip.unflatten(-1, (-1, _FOLD)).transpose(1, 2)
        h = _activate(self.voice_conv1(h))
        h = _activate(self.voice_conv2(h))
        h = _activate(self.voice_conv3(F.max_pool1d(h, 2)))
        h = _activate(self.voice_conv4(h))
        h = _activate(self.kws_conv1(F.max_pool1d(h, 2)))
        h = _activate(self.kws_conv2(h))
        h = _activate(self.kws_conv3(F.avg_pool1d(h, 2)))
        h = _activate(self.kws_conv4(F.max_pool1d(h, 2)))
        return self.fc(h.flatten(1))


def _activate(h: Tensor) -> Tensor:
    return h.clamp(0.0, _CEILING)


def load_ai8x(path: str | Path) -> Ai8xKws20:
    """Read published KWS20 v3 weights, executing no code from the file; in eval mode, parameters frozen.

    The file is a state dict saved by `torch.save`; its keys `module.NAME.op.weight` are taken.

    Raises:
        WeightsError: the file is missing, is no plain state dict, or does not hold this network's weights.
    """
    stored = _read(Path(path))
    named = {
        key.removeprefix(_PREFIX).removesuffix(_SUFFIX) + ".weight": value
        for key, value in stored.items()
        if isinstance(key, str) and key.startswith(_PREFIX) and key.endswith(_SUFFIX)
    }
    recogniser = Ai8xKws20()
    expected = recogniser.state_dict()
    for key in sorted(expected.keys() | named.keys()):
        if key not in named or key not in expected:
            problem = "lacks" if key not in named else "has an unexpected"
            raise WeightsError(f"{path} is not a KWS20 v3 recogniser: it {problem} {_stored_name(key)}")
        if not isinstance(named[key], Tensor) or named[key].shape != expected[key].shape:
            shape = tuple(getattr(named[key], "shape", ()))
            raise WeightsError(
                f"{path} is not a KWS20 v3 recogniser: {_stored_name(key)} has shape {shape}, "
                f"not {tuple(expected[key].shape)}"
            )
        if not named[key].isfinite().all():
            raise WeightsError(f"{path} is damaged: {_stored_name(key)} holds values that are not finite")
    recogniser.load_state_dict(named)
    return recogniser.eval().requires_grad_(False)


def _stored_name(key: str) -> str:
    return _PREFIX + key.removesuffix(".weight") + _SUFFIX


def _read(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist or is not a file")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is not a plain PyTorch state dict, or it is damaged") from error
    if not isinstance(stored, Mapping):
        raise WeightsError(f"{path} holds a {type(stored).__name__}, not a state dict")
    return stored
