"""Recognisers by name: waveform in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from audiopure.errors import InputError
from audiopure.nets.m5 import M5
from audiopure.nets.mel_recogniser import MelRecogniser
from audiopure.nets.mel_resnet import MelResNet

# a new recogniser is one file in `nets` and one line here
RECOGNISERS: Mapping[str, Callable[[Sequence[str]], nn.Module]] = {
    "mel_resnet": lambda labels: MelResNet(labels=labels),
    "resnext29": lambda labels: MelRecogniser("resnext29", labels),
    "resnext29-8-4": lambda labels: MelRecogniser("resnext29", labels, options={"base_width": 4}),
    "vgg19bn": lambda labels: MelRecogniser("vgg19bn", labels),
    "wideresnet28": lambda labels: MelRecogniser("wideresnet28", labels),
    "wideresnet28-2": lambda labels: MelRecogniser("wideresnet28", labels, options={"widen": 2}),
    "densenetbc": lambda labels: MelRecogniser("densenetbc", labels),
    "m5": lambda labels: M5(labels=labels),
}


def build_recogniser(name: str, labels: Sequence[str]) -> nn.Module:
    """A freshly initialised recogniser; InputError if `name` is not in RECOGNISERS."""
    if name not in RECOGNISERS:
        raise InputError(f"there is no recogniser '{name}'; there are: {', '.join(RECOGNISERS)}")
    return RECOGNISERS[name](labels)
