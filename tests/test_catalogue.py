"""Attacks by name: every name builds, text becomes what its field holds, and nothing else is accepted."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from audiopure.attacks import Attack, Pgd
from audiopure.attacks.catalogue import ATTACKS, build_attack, settings_of
from audiopure.attacks.transfer import Transfer
from audiopure.errors import AudiopureError, InputError
from audiopure.noise import SeededNoise
from audiopure.systems import as_system

NEEDS: dict[str, dict[str, Any]] = {"transfer": {"surrogate": nn.Identity()}}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_name_builds_its_class(name: str) -> None:
    attack = build_attack(name, **NEEDS.get(name, {}))
    assert isinstance(attack, Attack)
    assert type(attack).__name__ == ATTACKS[name].name
    assert attack.eps > 0


def written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_default_can_be_written_as_text(name: str) -> None:
    """What `--set` takes covers what the attack has, and gives back the same attack."""
    default = build_attack(name, **NEEDS.get(name, {}))
    source = default.inner if isinstance(default, Transfer) else default
    words = {}
    for key in settings_of(name):
        value = getattr(default, key) if hasattr(default, key) else getattr(source, key)
        if key != "surrogate":
            words[key] = written(value)
    assert build_attack(name, **words, **NEEDS.get(name, {})) == default


def test_text_becomes_what_the_field_holds() -> None:
    attack = build_attack(
        "pgd",
        eps="0.004",
        norm="l2",
        steps="50",
        random_start="no",
        step_size="paper",
        leave="none",
        loss="dlr",
    )
    assert attack == Pgd(eps=0.004, norm="l2", steps=50, random_start=False, step_size="paper", loss="dlr")
    assert build_attack("pgd", step_size="1e-3", bits="16", selection="7") == Pgd(step_size=1e-3, selection=7)
    assert build_attack("siren", inertia="0.8,0.2").inertia == (0.8, 0.2)  # type: ignore[attr-defined]
    # what is not text is taken as it is
    assert build_attack("pgd", eps=0.01, bits=None) == Pgd(eps=0.01, bits=None)


def test_a_norm_brings_its_budget() -> None:
    assert build_attack("pgd", norm="l2").eps == 0.253
    assert build_attack("pgd", norm="linf").eps == 0.002
    assert build_attack("pgd", norm="l2", eps="0.1").eps == 0.1
    assert build_attack("cw", norm="free").eps == math.inf
    moved = build_attack("transfer", norm="l2", surrogate=nn.Identity())
    assert (moved.norm, moved.eps) == ("l2", 0.253)
    # the attack's own norm keeps the attack's own budget
    assert build_attack("universal", norm="linf").eps == build_attack("universal").eps


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("pdg", {}, "there is no attack 'pdg'; there are: pgd, apgd"),
        ("pgd", {"step": "3"}, "the attack 'pgd' has no setting 'step'; it has: norm, eps, steps"),
        ("pgd", {"steps": "many"}, "pgd: steps must be a whole number, got 'many'"),
        ("pgd", {"steps": "2.5"}, "pgd: steps must be a whole number, got '2.5'"),
        ("pgd", {"steps": "0"}, "steps must be at least 1"),
        ("pgd", {"eps": "small"}, "pgd: eps must be a number, got 'small'"),
        ("pgd", {"eps": "nan"}, "pgd: eps must be a number, got 'nan'"),
        ("pgd", {"eps": "-1"}, "a budget must be positive and finite, got -1"),
        ("pgd", {"eps": "inf"}, "a budget must be positive and finite, got inf"),
        ("pgd", {"norm": "l1"}, "pgd: norm must be linf or l2, got 'l1'"),
        ("pgd", {"random_start": "maybe"}, "pgd: random_start must be yes or no, got 'maybe'"),
        ("pgd", {"leave": "some"}, "pgd: leave must be a whole number or none, got 'some'"),
        ("pgd", {"loss": "zero-one"}, "there is no loss 'zero-one'; there are: ce"),
        ("pgd", {"route": "around"}, "there is no gradient route 'around'; there are: exact"),
        ("siren", {"inertia": "1"}, "siren: inertia must be numbers separated by commas, got '1'"),
        ("kenansville", {"eps": "0.1"}, "no norm bounds the attack 'kenansville': it has no setting 'eps'"),
        ("qin", {"norm": "l2"}, "no norm bounds the attack 'qin': it has no setting 'norm'"),
        ("random", {"targeted": True}, "the attack 'random' cannot be targeted"),
        ("autoattack", {"targeted": "yes"}, "the attack 'autoattack' cannot be targeted"),
        ("transfer", {}, "the attack 'transfer' needs a model to attack instead: surrogate=SYSTEM"),
        ("transfer", {"surrogate": "no-such-model"}, "no-such-model"),
        (
            "transfer",
            {"surrogate": "digits", "samples": "3"},
            "the attack 'transfer' has no setting 'samples'",
        ),
    ],
)
def test_what_cannot_be_built_is_one_sentence(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AudiopureError) as caught:
        build_attack(name, **settings)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_targeted() -> None:
    assert build_attack("pgd", targeted=True) == build_attack("pgd", targeted="yes") == Pgd(targeted=True)
    assert build_attack("pgd", targeted="no") == Pgd()
    assert build_attack("random", targeted="no") == build_attack("random")
    inner = build_attack("transfer", targeted=True, steps="3", selection="2", surrogate="digits")
    assert isinstance(inner, Transfer)
    assert inner.inner.targeted and inner.inner.steps == 3 and inner.selection == 2
    assert as_system(inner.surrogate).labels[0] == "zero"


def test_a_built_attack_runs() -> None:
    model = nn.Sequential(nn.Linear(64, 3))
    x = 0.1 * torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    labels = model(x).argmax(1)
    attack = build_attack("pgd", eps="0.05", steps="5")
    found = attack(model, x, labels, noise=SeededNoise(0)).adversarial
    assert 0 < float((found - x).abs().max()) <= 0.05


def test_what_no_text_can_set_is_no_setting() -> None:
    with pytest.raises(InputError, match="has no setting 'inner'"):
        build_attack("transfer", surrogate=nn.Identity(), inner="pgd")
    assert not {"norm", "eps"} & set(settings_of("kenansville"))


def test_naming_attacks_does_not_import_torch() -> None:
    script = (
        "import sys; from audiopure.choices import ATTACKS; assert ATTACKS and 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
