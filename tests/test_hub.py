"""Weights files: faithful when whole, one sentence when not, and never any code."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from audiopure import hub
from audiopure.api import load_purifier, load_recogniser
from audiopure.diffusion.denoiser import EpsDenoiser
from audiopure.errors import InputError, WeightsError
from audiopure.nets.diffwave import DiffWave
from audiopure.nets.m5 import M5
from audiopure.nets.mel_resnet import MelResNet
from audiopure.nets.stft_denoiser import StftDenoiser

CARD = {"licence": "CC0", "validation": {"score": 0.125}, "name": "späßig"}
LABELS = ("yes", "no", "up")


def networks() -> dict[str, tuple[str, nn.Module]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "denoiser": ("denoiser", StftDenoiser(width=8, blocks=1, expansion=3, taps=2)),
            "resnet": ("recogniser", MelResNet(labels=LABELS, width=4)),
            "m5": ("recogniser", M5(labels=LABELS)),
            "diffwave": (
                "eps",
                DiffWave(channels=4, skip_channels=4, layers=4, dilation_cycle=2, steps=50, beta_last=0.05),
            ),
        }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    kind, net = networks()["denoiser"]
    hub.save(net, tmp_path / "w.safetensors", kind=kind, card=CARD)
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("name", sorted(networks()))
def test_round_trip(name: str, tmp_path: Path) -> None:
    kind, net = networks()[name]
    path = tmp_path / "new folder" / "w.safetensors"
    hub.save(net, path, kind=kind, card=CARD)
    facts = hub.describe(path)
    assert (facts["kind"], facts["architecture"], facts["card"]) == (kind, type(net).__name__, CARD)
    assert facts["config"] == net.config and facts["bytes"] == path.stat().st_size
    again = hub.load(path, kind=kind)
    assert type(again) is type(net) and again.config == net.config
    assert again.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_eps_network_comes_with_its_own_schedule(tmp_path: Path) -> None:
    kind, net = networks()["diffwave"]
    hub.save(net, tmp_path / "w.safetensors", kind=kind, card={})
    purifier = load_purifier(tmp_path / "w.safetensors", n_star=2)
    assert isinstance(purifier.denoiser, EpsDenoiser)
    assert len(purifier.schedule) == 50 and purifier.schedule.beta(50) == pytest.approx(0.05)
    assert purifier(torch.zeros(1, 100)).shape == (1, 100)
    with pytest.raises(InputError, match="DiffWave has no bf16 form"):
        load_purifier(tmp_path / "w.safetensors", precision="bf16")


def test_recognisers_know_their_labels(tmp_path: Path) -> None:
    kind, net = networks()["resnet"]
    hub.save(net, tmp_path / "w.safetensors", kind=kind, card={})
    assert load_recogniser(tmp_path / "w.safetensors").labels == LABELS


@pytest.mark.parametrize("name", ["small", "digits"])
def test_shipped_weights_load(name: str) -> None:
    facts = hub.describe(name)
    net = hub.load(name, kind={"small": "denoiser", "digits": "recogniser"}[name])
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    assert facts["bytes"] <= 10e6


def test_shipped_weights_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights at 'smal': .* shipped names small, digits"):
        hub.load("smal")
    with pytest.raises(WeightsError, match="no weights are shipped under the name 'large'"):
        hub.shipped_path("large")


def test_wrong_kind(weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.safetensors holds a denoiser, not a recogniser"):
        load_recogniser(weights)
    with pytest.raises(WeightsError, match="holds a recogniser, not a purifier"):
        load_purifier("digits")


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """Copies: `load_file` maps the file, which the tests overwrite."""
    return {name: value.clone() for name, value in load_file(path).items()}


def rewritten(path: Path, **metadata: str | None) -> None:
    """Change entries of the file's metadata, None removes one."""
    with safe_open(path, framework="pt") as file:
        entries = {**(file.metadata() or {}), **metadata}
    save_file(tensors_of(path), path, {key: value for key, value in entries.items() if value is not None})


def other_size(path: Path) -> None:
    rewritten(path, config=json.dumps({"width": 16, "blocks": 1, "expansion": 3, "taps": 2}))


def other_argument(path: Path) -> None:
    rewritten(path, config=json.dumps({"size": 16}))


def missing_tensor(path: Path) -> None:
    tensors = tensors_of(path)
    tensors.pop("input.weight")
    with safe_open(path, framework="pt") as file:
        save_file(tensors, path, file.metadata())


def pickled(path: Path) -> None:
    torch.save(tensors_of(path), path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "no weights at"),
    "empty": (lambda path: path.write_bytes(b""), "is not a readable safetensors file"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        "is not a readable safetensors file",
    ),
    "header cut": (
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        "is not a readable safetensors file",
    ),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 9), "is not a readable safetensors file"),
    "pickle": (pickled, "is not a readable safetensors file"),
    "foreign": (lambda path: save_file(tensors_of(path), path), "was not written by audiopure"),
    "unknown format": (lambda path: rewritten(path, format="audiopure-9"), "was not written by audiopure"),
    "no config": (lambda path: rewritten(path, config=None), "has damaged metadata"),
    "bad config": (lambda path: rewritten(path, config="{"), "has damaged metadata"),
    "listed config": (lambda path: rewritten(path, config="[1]"), "has damaged metadata"),
    "unknown class": (lambda path: rewritten(path, architecture="os.system"), "unknown to this version"),
    "other class": (lambda path: rewritten(path, architecture="MelResNet"), "does not fit .* MelResNet"),
    "other size": (other_size, "does not fit the architecture StftDenoiser"),
    "other argument": (other_argument, "does not fit the architecture StftDenoiser"),
    "missing tensor": (missing_tensor, "does not fit the architecture StftDenoiser"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_get_one_sentence(damage: str, weights: Path) -> None:
    harm, message = DAMAGES[damage]
    harm(weights)
    with pytest.raises(WeightsError, match=message) as caught:
        hub.load(weights)
    assert "\n" not in str(caught.value) and str(weights) in str(caught.value)


class Payload:
    """Pickles into a call that creates `marker`."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "marker")))
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        hub.load(path)
    assert not (tmp_path / "marker").exists()


def test_only_known_architectures_are_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Linear is not an architecture"):
        hub.save(nn.Linear(1, 1), tmp_path / "w.safetensors", kind="denoiser", card={})
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    kind, net = networks()["m5"]
    with pytest.raises(OSError, match="No space"):
        hub.save(net, weights, kind=kind, card={})
    assert weights.read_bytes() == before
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]
