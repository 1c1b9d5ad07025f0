"""The benchmark that trains what does not ship: what is there is not trained again, what fails is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_training import CONFIG

from audiopure.data.synthetic import write_dataset


def test_weights_and_curves_are_kept_and_not_trained_again(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trainings = module("trainings")
    write_dataset(tmp_path / "data" / "sc09", clips_per_label=3, seed=0)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    runs = {"one": f"denoiser --config {config}", "two": "denoiser --config nowhere.toml", "out": "nothing"}
    monkeypatch.setattr(trainings, "WEIGHTS", runs)
    monkeypatch.setattr(trainings, "KEPT", tmp_path / "kept")
    words = ["--data", tmp_path / "data", "--work", tmp_path / "work"]
    monkeypatch.setattr(sys, "argv", ["trainings.py", *map(str, words), "--only", "one", "t*"])
    assert trainings.main() == 1  # as one of the two failed
    assert "not trained: two" in capfd.readouterr().err
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert kept == {
        "one.safetensors": (tmp_path / "work" / "one" / "model.safetensors").read_bytes(),
        "one.jsonl": (tmp_path / "work" / "one" / "log.jsonl").read_bytes(),
    }
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    monkeypatch.setattr(trainings, "WEIGHTS", {"one": runs["one"]})
    assert trainings.main() == 0 and not (tmp_path / "work").exists()
