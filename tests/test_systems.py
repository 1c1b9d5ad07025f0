"""Systems by name: what a specification builds, and how noise reaches defences behind one another."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import audiopure
from audiopure.attacks.objective import call
from audiopure.diffusion.samplers import OneShot
from audiopure.errors import AudiopureError, InputError
from audiopure.noise import SeededNoise
from audiopure.systems import as_system, fingerprint, load_system


class Own(nn.Module):
    labels, sample_rate = ("no", "yes"), 16_000

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return torch.stack([waveform.sum(1), -waveform.sum(1)], 1)


def build() -> nn.Module:
    return Own()


own = Own()
nothing = 3


def test_a_recogniser_alone_is_undefended() -> None:
    system = load_system("m5")
    assert not system.defended and system.model is system.undefended
    assert system.labels == system.model.labels and system.sample_rate == 16_000
    assert list(system.weights) == ["m5"]


def test_settings_reach_the_purifier() -> None:
    system: Any = load_system("small, n_star=5, sampler=one-shot, level=fixed, reverse=no + m5")
    purifier = system.model.purifier
    assert isinstance(purifier, audiopure.Purifier) and isinstance(purifier.sampler, OneShot)
    assert (purifier.n_star, purifier.reverse, type(purifier.level).__name__) == (5, False, "FixedLevel")
    assert system.defended and set(system.weights) == {"small", "m5"}


def test_sound_passes_the_defences_in_the_order_written() -> None:
    system: Any = load_system("small,n_star=5+small,n_star=1+m5")
    assert system.model.purifier.n_star == 5 and system.model.model.purifier.n_star == 1
    assert system.undefended is system.model.model.model


def test_replayed_noise_reaches_both_of_two_defences() -> None:
    model = load_system("small,n_star=2+small,n_star=1+m5").model
    x = 0.1 * SeededNoise(0).normal((2, 4000), draw=0)
    first, again = (call(model, x, SeededNoise(5), None) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, call(model, x, SeededNoise(6), None))


@pytest.mark.parametrize("name", ["build", "own"])
def test_models_of_ones_own(name: str) -> None:
    system = load_system(f"small+{__name__}:{name}")
    assert system.labels == ("no", "yes") and isinstance(system.undefended, Own)
    assert not system.undefended.training


def test_a_model_must_say_its_labels_and_rate() -> None:
    with pytest.raises(InputError, match="`labels`"):
        as_system(nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "DEFENCE+RECOGNISER"),
        ("small+", "DEFENCE+RECOGNISER"),
        ("nobody+digits", "no weights at 'nobody'"),
        ("digits+m5", "not a purifier"),
        ("small", "not a recogniser"),
        ("small,steps=3+digits", "has no setting steps; there are: n_star"),
        ("small,n_star+digits", "write settings as key=value"),
        ("small,n_star=many+digits", "'many' is not a number"),
        ("small,n_star=300+digits", "n_star must lie between"),
        ("small,precision=fp8+digits", "'fp8' must be fp32 or bf16"),
        ("small,sampler=fast+digits", "there is no sampler 'fast'"),
        ("small,reverse=false+digits", "'false' must be yes or no"),
        ("digits,size=3", "takes no settings"),
        ("no.such:thing", "cannot be imported"),
        (f"{__name__}:nothing", "neither a torch.nn.Module nor makes one"),
        ("small+ai8x", "path="),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(AudiopureError, match=re.escape(message)) as raised:
        load_system(spec)
    assert "\n" not in str(raised.value)


def test_a_model_without_a_file_is_known_by_its_parameters_and_settings() -> None:
    def known(**settings: Any) -> str:
        purifier = audiopure.load_purifier("small", **settings)
        return next(iter(as_system(audiopure.defend(Own(), purifier)).weights.values()))

    assert known() == known() != known(n_star=5)
    model = nn.Sequential(nn.Linear(3, 2))
    before = fingerprint(model)
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6  # type: ignore[index]
    assert fingerprint(model) != before
    assert len(load_system(f"{__name__}:own").weights) == 1


def test_a_module_beside_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_me.py").write_text(f"from {__name__} import build\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_system("beside_me:build").labels == ("no", "yes")
