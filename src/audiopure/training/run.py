"""From a recipe's name and a configuration file to weights with their card and curve."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from audiopure import __version__, hub
from audiopure.atomic import whole, write_text
from audiopure.errors import InputError
from audiopure.machine import device_name
from audiopure.source import source
from audiopure.training.adversarial import AdversarialRecipe
from audiopure.training.adversarial_config import AdversarialConfig
from audiopure.training.config import TrainConfig, read_config
from audiopure.training.denoiser import DenoiserConfig, DenoiserRecipe
from audiopure.training.diffwave import DiffWaveConfig, DiffWaveRecipe
from audiopure.training.enhancer import EnhancerConfig, EnhancerRecipe
from audiopure.training.flattening import flattened
from audiopure.training.loop import Progress, Recipe, initialised, moved, seconds_spent, train
from audiopure.training.purifier import PurifierConfig, PurifierRecipe
from audiopure.training.recogniser import RecogniserConfig, RecogniserRecipe
from audiopure.training.smoothed import SmoothedConfig, SmoothedRecipe
from audiopure.training.spectrum import SpectrumConfig, SpectrumRecipe
from audiopure.training.stability import StabilityConfig, StabilityRecipe
from audiopure.training.together import team
from audiopure.training.wavegan import WaveGanConfig, WaveGanRecipe


class Stored(Recipe, Protocol):
    """A recipe whose result becomes a weights file.

    Attributes:
        audio: digests of the clips that it has read, by dataset and split.
        nats: whether its validation loss is in nats, as cross-entropies and logarithms are, whose zero means
            nothing; else a loss is judged by how much of it is left.
    """

    audio: dict[str, str]
    nats: bool

    def product(self, model: nn.Module) -> nn.Module:
        """What of the trained network is stored."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A recipe that makes things on its way which a resumed run goes on with."""

    def keep_in(self, folder: Path) -> None:
        """Keep them in the run's folder."""
        ...


class Entry(NamedTuple):
    config: type[TrainConfig]
    recipe: Callable[[Any, Path], Stored]


# a new recipe is one file and one line here
RECIPES: Mapping[str, Entry] = {
    "adversarial": Entry(AdversarialConfig, AdversarialRecipe),
    "denoiser": Entry(DenoiserConfig, DenoiserRecipe),
    "diffwave": Entry(DiffWaveConfig, DiffWaveRecipe),
    "enhancer": Entry(EnhancerConfig, EnhancerRecipe),
    "purifier": Entry(PurifierConfig, PurifierRecipe),
    "recogniser": Entry(RecogniserConfig, RecogniserRecipe),
    "smoothed": Entry(SmoothedConfig, SmoothedRecipe),
    "spectrum": Entry(SpectrumConfig, SpectrumRecipe),
    "stability": Entry(StabilityConfig, StabilityRecipe),
    "wavegan": Entry(WaveGanConfig, WaveGanRecipe),
}


def run(
    name: str,
    config_path: Path,
    root: Path,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train recipe `name` in `folder` (resuming what is there) and write `folder/model.safetensors`.

    `root` is the folder of datasets. The configuration and the log stand beside the weights; the card in the
    weights names settings, version, digests of data, audio and other weights, and validation metrics.
    InputError for an unknown recipe or bad configuration.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe '{name}'; there are: {', '.join(RECIPES)}")
    entry = RECIPES[name]
    config = read_config(config_path, entry.config)
    recipe = entry.recipe(config, root)
    if isinstance(recipe, Keeping):
        recipe.keep_in(folder)
    inputs = {"audio": recipe.audio, "weights": _weights(config)}
    if team().leads:
        _begin(folder, config_path, inputs)
    model, log = train(recipe, config, folder, device=device, report=report)
    best = max(log, key=lambda line: line["score"])
    change = moved(initialised(recipe, config), model)
    model = recipe.product(model)
    if not team().leads:
        return folder / "model.safetensors"
    card = {
        "recipe": name,
        "config": config.model_dump(),
        "version": __version__,
        "torch": torch.__version__,
        "data": {dataset: data_hash(root / dataset) for dataset in _datasets(config)},
        **inputs,
        "source": source(),
        "cost": {
            "seconds": round(seconds_spent(folder)),
            "processes": team().size,
            "machine": device_name(device),
            "threads": torch.get_num_threads(),
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "change": float(f"{change:.3g}"),  # of the weights, |w - w0| / |w0|
        "validation": best,
        "nats": recipe.nats,
        "flattened": flattened(log, nats=recipe.nats),
        "licence": "Apache-2.0; training data: see LICENSES/ATTRIBUTION.md",
    }
    path = folder / "model.safetensors"
    hub.save(model, path, kind=recipe.kind, card=card)
    return path


def _begin(folder: Path, config_path: Path, inputs: Mapping[str, Any]) -> None:
    """Put the configuration and what is read beside the run.

    Raises InputError if what is there was begun with other clips or weights under the same names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, kept = folder / "inputs.json", folder / "config.toml"
    if (folder / "state.pt").is_file():
        if known.is_file() and _read(known) != inputs:
            raise InputError(
                f"{folder} holds a run of other clips or weights: choose another folder or remove it"
            )
        return
    write_text(known, json.dumps(inputs, indent=1) + "\n")
    if config_path.resolve() != kept.resolve():
        with whole(kept) as partial:
            partial.write_bytes(config_path.read_bytes())


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove the folder to start again") from error


def data_hash(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 of a dataset's manifest: which clips it is, with which labels."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return "no manifest"
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]


def _weights(config: TrainConfig) -> dict[str, str]:
    """Digests (`hub.digest`) of the weights that a run reads, by the names in its configuration."""
    values = config.model_dump()
    named = [values.get(key) or "" for key in ("initial", "denoiser", "recogniser")]
    named += re.split("[,=+]", values.get("defence") or "")  # written as a system is
    return {name: hub.digest(name) for name in named if name in hub.SHIPPED or Path(name).is_file()}


def _datasets(config: TrainConfig) -> list[str]:
    values = config.model_dump()
    if "datasets" in values:
        return list(values["datasets"])
    return [values[key] for key in ("dataset", "background") if values.get(key)]
