"""The wheel carries weights and clips and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import audiopure, sys, torch
from pathlib import Path
from audiopure import hub
from audiopure.evaluation.clips import load_clips
assert Path(audiopure.__file__).resolve().parents[1] == Path(sys.argv[1]).resolve(), audiopure.__file__
purifier = audiopure.load_purifier()
recogniser = audiopure.load_recogniser()
defended = audiopure.defend(recogniser, purifier)
logits = defended(torch.zeros(2, 16000))
assert logits.shape == (2, 10)
clips = load_clips(None, recogniser, 20, 0)
assert len(clips.waveforms) == 20 and set(clips.targets) == set(range(10)), clips.targets
print(sorted(hub.SHIPPED), sum(hub.shipped_path(name).is_file() for name in hub.SHIPPED))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, and nothing else, was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True)


def test_weights_load_and_defend_outside_the_checkout(site: Path) -> None:
    done = run(site, "-c", PROGRAM, str(site))
    assert done.returncode == 0, done.stderr
    names, found = done.stdout.rsplit(" ", 1)
    assert int(found) == names.count("'") // 2


def test_clips_and_licences_are_in_the_wheel(site: Path) -> None:
    clips = list((site / "audiopure" / "assets" / "clips").rglob("*.flac"))
    assert len(clips) >= 50
    assert (site / "audiopure" / "py.typed").is_file()
    licences = {path.name for path in site.glob("audiopure-*.dist-info/licenses/**/*")}
    assert {"LICENSE", "ATTRIBUTION.md"} <= licences


def test_command_line_answers_outside_the_checkout(site: Path) -> None:
    done = run(site, "-m", "audiopure", "info")
    assert done.returncode == 0, done.stderr
    assert "small" in done.stdout
