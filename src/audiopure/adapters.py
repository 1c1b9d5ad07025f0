"""Our systems for other toolkits' attacks: the Adversarial Robustness Toolbox and foolbox.

Their attacks know nothing of randomised defences: each gradient and each verdict comes from one draw. They
check ours on fixed models; what they find on a randomised one is no measure of its robustness.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.attacks.objective import call
from audiopure.errors import MissingExtraError
from audiopure.noise import NoiseSource, system_noise

BOUNDS = (-1.0, 1.0)


class Drawn(nn.Module):
    """A model that takes a waveform and nothing else.

    Args:
        model: waveforms (B, T) to logits (B, C).
        noise: replayed at every call, so that the model is fixed: row k of a batch gets the draws of item k.
            By default each call draws anew from the operating system's entropy.
    """

    def __init__(self, model: nn.Module, noise: NoiseSource | None = None):
        super().__init__()
        self.model = model
        self.noise = noise
        self.training = model.training

    def forward(self, waveform: Tensor) -> Tensor:
        """Shape: (B, T) -> (B, C)."""
        return call(self.model, waveform, self.noise or system_noise(), None)


def to_art(
    model: nn.Module, labels: Sequence[str], *, samples: int = 16_000, noise: NoiseSource | None = None
) -> Any:
    """A model as an `art.estimators.classification.PyTorchClassifier` for clips in [-1, 1].

    Args:
        model: waveforms (B, T) to logits (B, C), in eval mode.
        labels: names of the C classes, of which the toolbox wants the number.
        samples: length of the clips that will be attacked; the toolbox needs all of one length.
        noise: see `Drawn`.

    The model stays on the CPU, or goes to the current GPU if it is on one. Raises MissingExtraError without
    the toolbox.
    """
    try:
        # it forgets to require `packaging`
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise MissingExtraError(
            "attacks by the Adversarial Robustness Toolbox need adversarial-robustness-toolbox: "
            "pip install 'audiopure[attack-check]'"
        ) from error
    return PyTorchClassifier(
        model=Drawn(model, noise),
        loss=nn.CrossEntropyLoss(),
        input_shape=(samples,),
        nb_classes=len(labels),
        clip_values=BOUNDS,
        device_type="cpu" if _device(model).type == "cpu" else "gpu",
    )


def to_foolbox(model: nn.Module, *, noise: NoiseSource | None = None) -> Any:
    """A model as a `foolbox.PyTorchModel` for clips in [-1, 1].

    Give its attacks `abs_stepsize`: the default is a thirtieth of the budget a step.

    Args:
        model: waveforms (B, T) to logits (B, C), in eval mode.
        noise: see `Drawn`.

    The model stays on its device. Raises MissingExtraError without foolbox.
    """
    try:
        from foolbox.models.pytorch import PyTorchModel
    except ImportError as error:
        raise MissingExtraError(
            "attacks by foolbox need foolbox: pip install 'audiopure[attack-check]'"
        ) from error
    return PyTorchModel(Drawn(model, noise), bounds=BOUNDS, device=_device(model))


def _device(model: nn.Module) -> torch.device:
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
