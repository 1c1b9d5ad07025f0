"""Every recipe goes on after an interruption to the same final state (`test_training` kills processes)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiopure import hub
from audiopure.data.synthetic import write_dataset
from audiopure.nets.conv_tasnet import ConvTasNet
from audiopure.training.loop import Progress
from audiopure.training.run import RECIPES, run

STEPS, LEARNING_RATE = 6, 1e-3
SHARED = f"""
seed = 3
steps = {STEPS}
batch = 4
learning_rate = {LEARNING_RATE}
warmup = 2
ema = 0.9
validate_every = 4
checkpoint_every = 2
"""
CLIPS = 'seconds = 0.5\nbackground = "sc09"\n'
WORDS = CLIPS + 'network = "m5"\nmasking = false\n'
TASNET = "window = 32\nfilters = 16\nbottleneck = 8\nhidden = 12\nskip = 8\nblocks = 2\nrepeats = 1\n"
SHORT = "seconds = 0.25\n"
CONFIGS = {
    "denoiser": SHORT + "validation_clips = 4\n[network]\nwidth = 8\nblocks = 1\n[datasets]\nsc09 = 1.0\n",
    "diffwave": SHORT + "[network]\nchannels = 4\nskip_channels = 4\nlayers = 3\n",
    "recogniser": WORDS,
    "adversarial": WORDS + "inner = 2\n[budgets]\nlinf = 0.002\nl2 = 0.253\n",
    "adversarial free": WORDS + 'method = "free"\nreplays = 2\n',
    "adversarial trades": WORDS + 'method = "trades"\ninner = 1\n',
    "adversarial jacobian": WORDS + 'method = "jacobian"\n',
    "adversarial yopo": CLIPS + 'method = "yopo"\ninner = 2\ncheap = 2\ninitial = "digits"\n',
    "smoothed": WORDS,
    "smoothed attack": WORDS + 'denoiser = "small"\nattack = 1\n',
    "stability": CLIPS,
    "enhancer": CLIPS + "[tasnet]\n" + TASNET,
    "enhancer attack": CLIPS + 'added = "attack"\ninner = 1\n[tasnet]\n' + TASNET,
    "purifier": CLIPS + 'initial = "tasnet.safetensors"\ninner = 1\n',
    "purifier ssp": CLIPS + 'initial = "tasnet.safetensors"\nmethod = "ssp"\ninner = 2\n',
    "spectrum": CLIPS
    + "latest = 3\n[unet]\nwidth = 4\nmultiples = [1, 1, 1, 1]\nblocks = 1\nattention = []\nheads = 2\n",
    "wavegan": "width = 1\nlatent = 4\nturns = 2\n",
}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_dataset(folder / "data" / "sc09", clips_per_label=3, seed=0)
    torch.manual_seed(0)
    sizes = {key: int(value) for key, value in (line.split(" = ") for line in TASNET.splitlines())}
    hub.save(ConvTasNet(**sizes), folder / "tasnet.safetensors", kind="enhancer", card={})
    return folder


def test_all_recipes_are_here() -> None:
    assert {name.split()[0] for name in CONFIGS} == set(RECIPES)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    name: str, device: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU bit for bit; on a GPU as `docs/train.md` says, as sums there are in no fixed order."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("audiopure.training.wavegan.JUDGED", 20)
    config = tmp_path / "config.toml"
    config.write_text(SHARED + CONFIGS[name])

    def finish(output: Path, last: int) -> list[int]:
        seen: list[int] = []

        def report(progress: Progress) -> None:
            seen.append(progress.step)
            if progress.step == last:
                raise Interrupted

        try:
            run(name.split()[0], config, folder / "data", output, device=device, report=report)
        except Interrupted:
            pass
        return seen

    assert finish(tmp_path / "whole", 0) == [1, 2, 3, 4, 5, 6]
    assert finish(tmp_path / "parts", 3) == [1, 2, 3]
    assert finish(tmp_path / "parts", 0) == [3, 4, 5, 6]  # step 3 is in no checkpoint and runs again
    whole, parts = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "parts")]
    if device == "cpu":
        assert all(torch.equal(whole[key], parts[key]) for key in whole) and logs[0] == logs[1]
    else:
        apart = max(float((whole[key].double() - parts[key].double()).abs().max()) for key in whole)
        assert apart <= 2 * LEARNING_RATE * STEPS
        ends = [json.loads(text.splitlines()[-1])["validation_loss"] for text in logs]
        assert ends[0] == pytest.approx(ends[1], rel=0.01, abs=1e-3)
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [4, 6]
