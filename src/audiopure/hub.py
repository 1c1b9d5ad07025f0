"""Weights on disk: one safetensors file that names its architecture, configuration and model card.

Reading a file never executes code from it. `load` takes a path or the name of weights shipped with the
package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import nn

from audiopure.atomic import whole
from audiopure.errors import WeightsError

# name in the file -> where the class lives; a new architecture is one file and one line here
ARCHITECTURES: Mapping[str, str] = {
    "StftDenoiser": "audiopure.nets.stft_denoiser",
    "ConvTasNet": "audiopure.nets.conv_tasnet",
    "DiffWave": "audiopure.nets.diffwave",
    "MelUNet": "audiopure.nets.mel_unet",
    "Generator": "audiopure.nets.wavegan",
    "MelResNet": "audiopure.nets.mel_resnet",
    "MelRecogniser": "audiopure.nets.mel_recogniser",
    "M5": "audiopure.nets.m5",
    "Ai8xKws20": "audiopure.nets.ai8x",
}

# name -> file in assets/weights
SHIPPED: Mapping[str, str] = {
    "small": "purifier-small.safetensors",
    "digits": "recogniser-digits.safetensors",
    "digits-denoised": "recogniser-digits-denoised.safetensors",
    "m5": "recogniser-m5.safetensors",
}


def shipped_path(name: str) -> Path:
    """Path of the weights shipped under `name`; WeightsError if there are none."""
    if name not in SHIPPED:
        raise WeightsError(f"no weights are shipped under the name '{name}'; there are: {', '.join(SHIPPED)}")
    return Path(str(resources.files("audiopure") / "assets" / "weights" / SHIPPED[name]))


def save(module: nn.Module, path: str | Path, *, kind: str, card: Mapping[str, Any]) -> None:
    """Write `module` to `path` atomically.

    Args:
        module: an instance of a class in ARCHITECTURES; its `config` holds the constructor's arguments.
        kind: "denoiser", "eps" (a DDPM noise estimator), "spectrum" (one of spectrograms), "enhancer"
            (waveform to waveform), "generator" (of waveforms) or "recogniser".
        card: JSON-able facts about training data, licence and measurements.
    """
    architecture = type(module).__name__
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"{architecture} is not an architecture that weights can be stored for")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": "audiopure-1",
        "kind": kind,
        "architecture": architecture,
        "config": json.dumps(module.config, sort_keys=True),
        "card": json.dumps(dict(card), sort_keys=True),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    with whole(path) as partial:
        # written by us and not by `save_file`, which would leave a file that only its owner can read
        partial.write_bytes(serialise(tensors, metadata=metadata))


def describe(name_or_path: str | Path) -> dict[str, Any]:
    """Metadata of a weights file: kind, architecture, config (dict), card (dict), path, bytes."""
    path = _resolve(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error})") from error
    if metadata.get("format") != "audiopure-1":
        raise WeightsError(f"{path} is a safetensors file but was not written by audiopure")
    try:
        config, card = json.loads(metadata["config"]), json.loads(metadata["card"])
        kind, architecture = metadata["kind"], metadata["architecture"]
    except (KeyError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} has damaged metadata ({error})") from error
    if not isinstance(config, dict) or not isinstance(card, dict):
        raise WeightsError(f"{path} has damaged metadata (its config or card is no table)")
    return {
        "kind": kind,
        "architecture": architecture,
        "config": config,
        "card": card,
        "path": path,
        "bytes": path.stat().st_size,
    }


def digest(name_or_path: str | Path) -> str:
    """First 16 hex digits of the SHA-256 of a weights file; WeightsError if there is none."""
    return hashlib.sha256(_resolve(name_or_path).read_bytes()).hexdigest()[:16]


def load(name_or_path: str | Path, *, kind: str | None = None) -> nn.Module:
    """Build the network a weights file describes, in eval mode with frozen parameters, on the CPU.

    Raises WeightsError if the file is missing, damaged, of another `kind`, or does not fit its architecture.
    """
    facts = describe(name_or_path)
    path, architecture = facts["path"], facts["architecture"]
    if kind is not None and facts["kind"] != kind:
        raise WeightsError(f"{path} holds a {facts['kind']}, not a {kind}")
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"{path} needs the architecture '{architecture}', unknown to this version")
    cls = getattr(import_module(ARCHITECTURES[architecture]), architecture)
    try:
        module = cls(**facts["config"])
        module.load_state_dict(load_file(path))
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} does not fit the architecture {architecture}: {reason}") from error
    return module.eval().requires_grad_(False)


def _resolve(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, str) and name_or_path in SHIPPED:
        return shipped_path(name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = ", ".join(SHIPPED)
    raise WeightsError(f"no weights at '{name_or_path}': give a file, or one of the shipped names {names}")
