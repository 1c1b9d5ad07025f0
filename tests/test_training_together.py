"""Training in several processes, early stopping, and curves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from audiopure import InputError
from audiopure.data.synthetic import write_dataset
from audiopure.training.run import run
from audiopure.training.together import Team, team

CONFIG = """
seed = 3
steps = {steps}
batch = 4
learning_rate = {rate}
warmup = 2
ema = 0.9
validate_every = 3
checkpoint_every = 3
seconds = 0.25
validation_clips = 4
{more}
[network]
width = 8
blocks = 1
[datasets]
sc09 = 1.0
"""

WORDS = """
seed = 3
steps = 40
batch = 4
learning_rate = 1e-9
warmup = 2
ema = 0.9
validate_every = 2
checkpoint_every = 1
patience = 2
seconds = 0.5
background = "sc09"
network = "m5"
masking = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    write_dataset(folder / "data" / "sc09", clips_per_label=3, seed=0)
    return folder


def config(folder: Path, name: str, steps: int = 9, rate: float = 1e-3, more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(CONFIG.format(steps=steps, rate=rate, more=more))
    return path


def launched(recipe: str, config: Path, data: Path, output: Path) -> list[str]:
    """The command of two processes."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    words += ["--standalone", "-m", "audiopure", "train", recipe, "--config", str(config)]
    return [*words, "--data", str(data), "--output", str(output), "--threads", "1"]


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("adversarial", "inner = 1\n[budgets]\nlinf = 0.002\n"),
        ("smoothed", 'denoiser = "small"\nattack = 1\n'),
    ],
)
def test_two_processes_with_noise_of_their_own_go_on_where_both_were_killed(
    recipe: str, more: str, folder: Path, tmp_path: Path
) -> None:
    """Networks that normalise over their share, attacks and an early end, on which both have to agree."""
    path, data = tmp_path / "config.toml", folder / "data"
    path.write_text(WORDS + more)
    for name in ("whole", "parts"):
        command, output = launched(recipe, path, data, tmp_path / name), tmp_path / name
        if name == "parts":
            begun = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            while begun.poll() is None and not (output / "state.pt").is_file():
                time.sleep(0.02)
            # the launcher gives each of them a session of its own
            workers = subprocess.run(["pgrep", "-P", str(begun.pid)], capture_output=True, text=True).stdout
            for pid in (begun.pid, *map(int, workers.split())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            begun.wait()
            (output / "model.safetensors").unlink(missing_ok=True)
        found = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) and whole[key].isfinite().all() for key in whole)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "parts")]
    steps = [json.loads(line)["step"] for line in logs[0].splitlines()]
    assert logs[0] == logs[1] and steps == list(range(2, 2 * len(steps) + 1, 2)) and steps[-1] < 40


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    """The launcher of the field, gloo on CPUs: the same weights up to the order of sums."""
    path = config(folder, "pair")
    alone = run("denoiser", path, folder / "data", folder / "alone")
    command = launched("denoiser", path, folder / "data", folder / "pair")
    for repeat in range(2):  # the second finds a finished run
        found = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr
        assert found.stdout.count("model.safetensors") == 1
        assert repeat or "step 9" in found.stderr
    first, second = load_file(alone), load_file(folder / "pair" / "model.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-2, atol=1e-4)
    logs = [(folder / name / "log.jsonl").read_text().splitlines() for name in ("alone", "pair")]
    for one, other in zip(*logs, strict=True):
        a, b = json.loads(one), json.loads(other)
        # the loss of the first process is of its share of the batch
        assert {k: v for k, v in b.items() if k != "loss"} == pytest.approx(
            {k: v for k, v in a.items() if k != "loss"}, rel=1e-3
        )


def test_rows_are_shared_and_numbers_are_not() -> None:
    batch = (torch.arange(6), torch.eye(6), torch.tensor(7))
    parts = [Team(rank, 3).share(batch) for rank in range(3)]
    assert [part[0].tolist() for part in parts] == [[0, 3], [1, 4], [2, 5]]
    assert all(int(part[2]) == 7 and part[1].shape == (2, 6) for part in parts)
    with pytest.raises(InputError, match="cannot be shared"):
        Team(0, 4).share(batch)


def test_alone_nothing_is_shared() -> None:
    assert team() == Team(0, 1) and team().leads and team().agreed(True) and not team().agreed(False)
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad.clone()  # type: ignore[union-attr]
    team().average(model)
    team().wait()
    assert torch.equal(before, model.weight.grad)  # type: ignore[arg-type]


def test_a_run_ends_early_once_nothing_gets_better_and_stays_ended(folder: Path) -> None:
    seen: list[int] = []
    path = config(folder, "idle", steps=60, rate=1e-12, more="patience = 2")
    first = run("denoiser", path, folder / "data", folder / "idle", report=lambda p: seen.append(p.step))
    scores = [json.loads(line)["score"] for line in (folder / "idle" / "log.jsonl").read_text().splitlines()]
    best = scores.index(max(scores))
    assert len(scores) == best + 3 and seen[-1] == 3 * len(scores) < 60
    weights = load_file(first)
    again: list[int] = []
    second = run("denoiser", path, folder / "data", folder / "idle", report=lambda p: again.append(p.step))
    found = load_file(second)
    assert not again and all(torch.equal(found[name], weights[name]) for name in weights)


def test_curves_for_tensorboard(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from audiopure.training.board import Board

    path = config(folder, "curves", steps=6)
    board = Board(folder / "curves" / "tensorboard")
    run("denoiser", path, folder / "data", folder / "curves", report=board)
    events = EventAccumulator(str(folder / "curves" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 7))
    log = [json.loads(line) for line in (folder / "curves" / "log.jsonl").read_text().splitlines()]
    scores = [event.value for event in events.Scalars("validation/score")]
    assert scores == pytest.approx([entry["score"] for entry in log], rel=1e-5)
