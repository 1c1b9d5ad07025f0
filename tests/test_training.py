"""Training that survives being killed, and refuses settings that cannot be meant."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiopure import audio, hub
from audiopure.data.layouts import load_dataset
from audiopure.data.synthetic import write_dataset
from audiopure.errors import InputError
from audiopure.source import source
from audiopure.training.config import TrainConfig
from audiopure.training.flattening import flattened
from audiopure.training.loop import Progress, schedule
from audiopure.training.run import run

SHARED = """
seed = 3
steps = 24
batch = 6
learning_rate = 2e-3
warmup = 4
ema = 0.9
validate_every = 7
checkpoint_every = 2
"""
CONFIGS = {
    "denoiser": SHARED
    + """
seconds = 0.25
validation_clips = 4
[network]
width = 8
blocks = 1
[datasets]
sc09 = 1.0
""",
    "recogniser": SHARED
    + """
seconds = 0.5
network = "m5"
masking = false
background = "sc09"
""",
    "adversarial": SHARED
    + """
seconds = 0.5
network = "m5"
inner = 2
background = "sc09"
[budgets]
linf = 0.002
l2 = 0.253
""",
    "stability": SHARED
    + """
seconds = 0.5
background = "sc09"
""",
}
WORKER = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
torch.set_flush_denormal(True)
from audiopure.training.run import run
def report(progress):
    print(progress.step, flush=True)
    time.sleep(0.02)
run(sys.argv[1], Path("config.toml"), Path("data"), Path(sys.argv[2]), report=report)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_dataset(folder / "data" / "sc09", clips_per_label=3, seed=0)
    return folder


def start(recipe: str, config: str, output: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "config.toml").write_text(config)
    command = [sys.executable, "-c", WORKER, recipe, output]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """Bit for bit, cards but for the time included; the order in a safetensors header is not defined."""
    first, second = (load_file(path) for path in (ours, theirs))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    facts = [hub.describe(path) for path in (ours, theirs)]
    for found in facts:
        assert found["card"].pop("cost")["seconds"] >= 0
    apart = {"path": None, "bytes": None}
    assert facts[0] | apart == facts[1] | apart


def finish(worker: subprocess.Popen[str]) -> list[int]:
    out, error = worker.communicate(timeout=120)
    assert worker.returncode == 0, error
    return [int(line) for line in out.split()]


@pytest.mark.parametrize("recipe", ["adversarial", "denoiser"])  # of the others see test_training_resume
def test_killed_and_resumed_is_uninterrupted(recipe: str, folder: Path) -> None:
    """SIGKILL at random moments; weights, log and card come out bit for bit as in one go."""
    whole, killed = f"{recipe}-whole", f"{recipe}-killed"
    assert finish(start(recipe, CONFIGS[recipe], whole, folder)) == list(range(1, 25))
    moments = random.Random()
    firsts = []
    for _ in range(2):
        worker = start(recipe, CONFIGS[recipe], killed, folder)
        assert worker.stdout is not None
        lines = [worker.stdout.readline() for _ in range(moments.randint(3, 9))]
        firsts.append(int(lines[0]))
        time.sleep(moments.uniform(0, 0.1))
        worker.kill()
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
    firsts.append(finish(start(recipe, CONFIGS[recipe], killed, folder))[0])
    assert firsts[0] == 1 < firsts[1] < firsts[2], "a run was not resumed"
    assert_same_weights(folder / killed / "model.safetensors", folder / whole / "model.safetensors")
    log = (folder / killed / "log.jsonl").read_text()
    assert log == (folder / whole / "log.jsonl").read_text()
    assert [json.loads(line)["step"] for line in log.splitlines()] == [7, 14, 21, 24]
    card = hub.describe(folder / killed / "model.safetensors")["card"]
    best = max(map(json.loads, log.splitlines()), key=lambda line: line["score"])
    assert card["validation"] == best and card["config"]["steps"] == 24
    assert card["flattened"] is flattened([json.loads(line) for line in log.splitlines()], nats=card["nats"])
    assert all(math.isfinite(json.loads(line)["validation_loss"]) for line in log.splitlines())


def test_a_finished_run_gives_its_weights_again(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIGS["denoiser"].replace("steps = 24", "steps = 2"))
    path = run("denoiser", config, folder / "data", tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    path.rename(tmp_path / "first.safetensors")
    (tmp_path / "run" / "log.jsonl").unlink()
    seen: list[Progress] = []
    assert run("denoiser", config, folder / "data", tmp_path / "run", report=seen.append) == path
    assert not seen
    assert_same_weights(path, tmp_path / "first.safetensors")
    assert (tmp_path / "run" / "log.jsonl").read_text() == log
    assert (tmp_path / "run" / "config.toml").read_text() == config.read_text()


def test_another_seed_gives_other_weights(folder: Path, tmp_path: Path) -> None:
    """The equality above compares runs that depend on their batches."""
    weights = []
    for seed in (3, 4):
        config = tmp_path / f"{seed}.toml"
        settings = CONFIGS["denoiser"].replace("steps = 24", "steps = 2")
        config.write_text(settings.replace("seed = 3", f"seed = {seed}"))
        weights.append(load_file(run("denoiser", config, folder / "data", tmp_path / str(seed))))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_card_tells_which_sounds_and_weights_were_used(folder: Path, tmp_path: Path) -> None:
    """A sample more or less, or a bit of one, is another corpus; the manifest does not tell."""
    settings = CONFIGS["adversarial"].replace("steps = 24", "steps = 1")
    config = tmp_path / "config.toml"
    config.write_text(settings.replace("inner = 2", 'inner = 1\ndefence = "small,n_star=1"'))
    shutil.copytree(folder / "data", tmp_path / "data")
    cards = []
    for name in ("first", "second"):
        path = run("adversarial", config, tmp_path / "data", tmp_path / name)
        cards.append(hub.describe(path)["card"])
        clip = load_dataset("sc09", tmp_path / "data", "train").clips[0].path
        samples, rate = audio.read(clip)
        samples[..., 100] += 2**-15
        audio.write(clip, samples.reshape(-1), rate)
    assert cards[0]["data"] == cards[1]["data"] and cards[0]["weights"] == cards[1]["weights"]
    assert cards[0]["audio"].keys() == {"sc09 train", "sc09 validation"}
    assert cards[0]["audio"] != cards[1]["audio"]
    known = hashlib.sha256(hub.shipped_path("small").read_bytes()).hexdigest()
    assert cards[0]["weights"] == {"small": known[:16]}


def test_the_card_tells_how_far_the_weights_have_moved(folder: Path, tmp_path: Path) -> None:
    found = {}
    for rate in ("1e-9", "1e-2"):
        config = tmp_path / f"{rate}.toml"
        settings = CONFIGS["stability"].replace("steps = 24", "steps = 1")
        config.write_text(settings.replace("2e-3", rate) + 'optimiser = "sgd"\nmomentum = 0.9\n')
        path = run("stability", config, folder / "data", tmp_path / rate)
        begun, ended = load_file(hub.shipped_path("small")), load_file(path)
        names = [name for name, _ in hub.load("small").named_parameters()]
        apart, size = (
            sum(float((part[name].double()).square().sum()) for name in names) ** 0.5
            for part in ({name: ended[name] - begun[name] for name in names}, begun)
        )
        found[rate] = hub.describe(path)["card"]["change"]
        assert found[rate] == pytest.approx(apart / size, rel=0.01)
    assert found["1e-9"] < 1e-6 < found["1e-2"]


def test_training_leaves_the_global_generator_alone(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIGS["recogniser"].replace("steps = 24", "steps = 1"))
    before = torch.get_rng_state()
    run("recogniser", config, folder / "data", tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_falls(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIGS["denoiser"].replace("steps = 24", "steps = 60").replace("2e-3", "1e-2"))
    seen: list[Progress] = []
    run("denoiser", config, folder / "data", tmp_path / "run", report=seen.append)
    losses = [progress.loss for progress in seen]
    assert sum(losses[-15:]) < sum(losses[:15]) - 15 * 0.3
    assert all(progress.seconds_left >= 0 for progress in seen) and seen[-1].seconds_left == 0


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=100, batch=1, learning_rate=1.0, warmup=10)
    factor = schedule(config)
    rates = [factor(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[50] == pytest.approx(0.505) and rates[99] == pytest.approx(0.01, abs=1e-3)


BASE = CONFIGS["denoiser"]
PROBLEMS = {
    "unknown key": ("denoiser", "typo = 1\n" + BASE, "config.toml: typo: .*not permitted"),
    "unknown nested key": (
        "denoiser",
        BASE.replace("width = 8", "widht = 8"),
        "config.toml: network.widht: .*not permitted",
    ),
    "wrong type": ("denoiser", BASE.replace("steps = 24", 'steps = "many"'), "config.toml: steps: .*integer"),
    "out of range": (
        "denoiser",
        BASE.replace("batch = 6", "batch = 0"),
        "config.toml: batch: .*greater than 0",
    ),
    "no seed": ("denoiser", BASE.replace("seed = 3", "seed = -1"), "config.toml: seed: .*equal to 0"),
    "a seed too large": ("denoiser", BASE.replace("seed = 3", f"seed = {2**63}"), "config.toml: seed: "),
    "no end": ("denoiser", "clip = inf\n" + BASE, "config.toml: clip: .*finite"),
    "noise upside down": (
        "denoiser",
        "sigma_min = 0.5\nsigma_max = 0.1\n" + BASE,
        r"sigma_min \(0.5\) must not exceed",
    ),
    "no decay": ("denoiser", "betas = [1.0, 0.9]\n" + BASE, "config.toml: betas.0: .*less than 1"),
    "no time": (
        "recogniser",
        CONFIGS["recogniser"].replace("seconds = 0.5", "seconds = 0.00001"),
        r"config.toml: seconds: .*0\.1",
    ),
    "missing key": ("denoiser", BASE.replace("steps = 24\n", ""), "config.toml: steps: .*required"),
    "no data": ("denoiser", BASE.replace("sc09 = 1.0", ""), "config.toml: datasets: .*at least 1"),
    "not TOML": ("denoiser", "steps == 3", "config.toml is not valid TOML"),
    "unknown recipe": ("denoizer", BASE, "no recipe 'denoizer'; there are: .*denoiser, .*recogniser"),
    "unknown dataset": (
        "denoiser",
        BASE.replace("sc09 = 1.0", "sc10 = 1.0"),
        "No dataset 'sc10' under .*sc09",
    ),
    "unknown network": (
        "recogniser",
        CONFIGS["recogniser"].replace('"m5"', '"m6"'),
        "no recogniser 'm6'; there are: .*m5",
    ),
    "masks without features": (
        "recogniser",
        CONFIGS["recogniser"].replace("masking = false", "masking = true"),
        "'m5' has no features to mask",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_settings_that_cannot_be_meant(problem: str, folder: Path, tmp_path: Path) -> None:
    recipe, text, message = PROBLEMS[problem]
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        run(recipe, tmp_path / "config.toml", folder / "data", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_what_a_cut_off_run_left_may_be_damaged(folder: Path, tmp_path: Path) -> None:
    config, output = tmp_path / "config.toml", tmp_path / "run"
    config.write_bytes(b"steps = 1 # \xff\n")
    with pytest.raises(InputError, match=r"config\.toml is not valid TOML"):
        run("denoiser", config, folder / "data", output)
    config.write_text(BASE.replace("steps = 24", "steps = 1"))
    run("denoiser", config, folder / "data", output)
    for junk in (b"junk", b""):
        (output / "state.pt").write_bytes(junk)
        with pytest.raises(InputError, match=r"state\.pt is damaged"):
            run("denoiser", config, folder / "data", output)
    for foreign in ({"other": 1}, [1, 2]):
        torch.save(foreign, output / "state.pt")
        with pytest.raises(InputError, match=r"state\.pt is damaged"):
            run("denoiser", config, folder / "data", output)
    (output / "inputs.json").write_text("{")
    with pytest.raises(InputError, match=r"inputs\.json is damaged"):
        run("denoiser", config, folder / "data", output)


def test_files_and_folders_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(BASE)
    with pytest.raises(InputError, match=r"cannot read the configuration .*none.toml: No such file"):
        run("denoiser", tmp_path / "none.toml", folder / "data", tmp_path / "run")
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        run("denoiser", tmp_path / "config.toml", tmp_path / "nowhere", tmp_path / "run")


def test_a_run_is_told_from_one_on_other_clips_and_keeps_its_configuration(
    folder: Path, tmp_path: Path
) -> None:
    data, output = shutil.copytree(folder / "data", tmp_path / "data"), tmp_path / "run"
    output.mkdir()
    config = output / "config.toml"  # where a finished run keeps its own
    config.write_text(BASE.replace("steps = 24", "steps = 1"))
    path = run("denoiser", config, data, output)
    assert config.read_text() == BASE.replace("steps = 24", "steps = 1")
    card = hub.describe(path)["card"]
    assert card["source"] == source() and json.loads((output / "inputs.json").read_text()) == {
        "audio": card["audio"],
        "weights": card["weights"],
    }
    clip = load_dataset("sc09", data, "train").clips[0].path
    samples, rate = audio.read(clip)
    samples[..., 100] += 2**-15
    audio.write(clip, samples.reshape(-1), rate)
    with pytest.raises(InputError, match="holds a run of other clips or weights"):
        run("denoiser", config, data, output)


def test_a_folder_with_another_run(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(BASE.replace("steps = 24", "steps = 1"))
    run("denoiser", config, folder / "data", tmp_path / "run")
    config.write_text(BASE.replace("steps = 24", "steps = 2"))
    with pytest.raises(InputError, match="holds a run with other settings"):
        run("denoiser", config, folder / "data", tmp_path / "run")
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"state\.pt is damaged"):
        run("denoiser", config, folder / "data", tmp_path / "run")
