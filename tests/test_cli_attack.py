"""`audiopure attack`: what it writes keeps the budget, and what it cannot do is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_cli import refused, run
from torch import Tensor, nn

from audiopure import audio
from audiopure.attacks import Pgd
from audiopure.cli import attack as command
from audiopure.errors import InputError
from audiopure.evaluation.attack_file import check_budget, choose_attack, load_recording
from audiopure.systems import load_system

RATE = 16_000
LENGTH = 1600
TINY = "test_cli_attack:tiny"
OTHER = "test_cli_attack:other"


class Linear(nn.Module):
    """Logits that are inner products with fixed signals: an optimal attack has a closed form."""

    def __init__(self, labels: tuple[str, ...]):
        super().__init__()
        self.labels, self.sample_rate = labels, RATE
        weights = torch.randn(len(labels), LENGTH, generator=torch.Generator().manual_seed(1))
        self.weights = nn.Parameter(weights, requires_grad=False)

    def forward(self, waveform: Tensor) -> Tensor:
        short = waveform[:, :LENGTH]
        return short @ self.weights[:, : short.shape[1]].T


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny() -> Linear:
    return Linear(("low", "high", "none"))


def other() -> Linear:
    return Linear(("high", "low", "none"))


def clip(path: str | Path, seed: int = 0, length: int = LENGTH, **settings: Any) -> Path:
    wave = 0.05 * np.random.default_rng(seed).standard_normal(length)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, settings.pop("rate", RATE), **settings)
    return Path(path)


def needed(path: Path) -> tuple[float, str]:
    """The L-inf budget from which on the linear model fails on a file, and the label it hears."""
    model = tiny()
    wave = audio.read(path)[0][0]
    logits = model(wave[None])[0]
    own = int(logits.argmax())
    each = [
        float((logits[own] - logits[k]) / (model.weights[own] - model.weights[k]).abs().sum())
        for k in range(3)
        if k != own
    ]
    return min(each), model.labels[own]


def attack(*arguments: str | Path, system: str = TINY) -> int:
    return run("attack", *arguments, "--system", system, "--overwrite")


def report(path: str = "r.json") -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def test_a_linear_model_falls_exactly_where_it_must(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = clip("in.wav")
    threshold, label = needed(source)
    for factor, falls in ((0.9, False), (1.1, True)):
        eps = factor * threshold
        assert (
            attack(source, "-o", "out.wav", "--eps", f"{eps:.9f}", "--steps", "20", "--json", "r.json") == 0
        )
        clean, adversarial = (audio.read(name)[0].double() for name in ("in.wav", "out.wav"))
        assert 0 < float((adversarial - clean).abs().max()) <= float(f"{eps:.9f}")
        found = report()["files"][0]
        assert found["label"] == label and not found["label_given"]
        assert found["clean"] == {label: 1}
        heard = tiny().labels[int(tiny()(adversarial.float()).argmax())]
        assert found["attacked"] == {heard: 1}
        assert (heard != label) == falls == (found["success"]["value"] == 1)
        assert found["distances"]["linf"] == pytest.approx(float((adversarial - clean).abs().max()))
        out = capfd.readouterr().out
        assert f"label     {label} (what the system hears without its defence)" in out
        assert f"success   {'yes' if falls else 'no'}" in out and "SNR" in out and "L∞" in out
    assert audio.probe("out.wav").subtype == "PCM_16"


def test_l2_keeps_its_budget_on_the_disk(here: Path) -> None:
    source = clip("in.wav")
    assert attack(source, "-o", "out.flac", "--norm", "l2", "--eps", "0.02", "--steps", "10") == 0
    clean, adversarial = (audio.read(name)[0].double() for name in ("in.wav", "out.flac"))
    assert 0.019 < float((adversarial - clean).norm()) <= 0.02


def test_a_wanted_label(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = clip("in.wav")
    _, label = needed(source)
    wanted = next(name for name in tiny().labels if name != label)
    options = ("--target", wanted, "--eps", "0.02", "--json", "r.json")
    assert attack(source, "-o", "out.wav", *options) == 0
    found = report()["files"][0]
    assert found["attacked"] == {wanted: 1} and found["wanted"] == wanted and found["success"]["value"] == 1
    assert "targeted=True" in report()["attack"]
    assert f"yes (wanted: {wanted})" in capfd.readouterr().out


def test_a_label_that_is_given(here: Path) -> None:
    source = clip("in.wav")
    _, label = needed(source)
    truth = next(name for name in tiny().labels if name != label)
    assert attack(source, "--label", truth, "--steps", "1", "--json", "r.json") == 0
    found = report()["files"][0]
    assert found["label"] == truth and found["label_given"]
    # what is misheard anyway is a success, and the clean passes show that it is none of the attack's
    assert found["clean"] == {label: 1} and found["success"]["value"] == 1


def test_without_an_output_nothing_is_written(here: Path) -> None:
    clip("in.wav")
    assert attack("in.wav", "--steps", "1") == 0
    assert [path.name for path in here.iterdir()] == ["in.wav"]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"rate": 44_100}, "16000 Hz instead of 44100 Hz"),
        ({"rate": 8000}, "16000 Hz instead of 8000 Hz"),
        ({"subtype": "PCM_24"}, "16-bit samples instead of PCM_24"),
        ({"subtype": "PCM_16"}, None),
    ],
)
def test_other_forms_become_what_the_system_hears(
    here: Path, settings: dict[str, Any], note: str | None
) -> None:
    source = clip("in.wav", length=8000, **settings)
    assert attack(source, "-o", "out.wav", "--steps", "2", "--eps", "0.001", "--json", "r.json") == 0
    assert report()["files"][0]["note"] == note
    info = audio.probe("out.wav")
    assert (info.sample_rate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    wave, rate = audio.read(source)
    heard = audio.resample(wave[0], rate, RATE).clamp(-1, 1)
    # half a step of a 16-bit sample beside the budget
    assert float((audio.read("out.wav")[0][0] - heard).abs().max()) <= 0.001 + 2**-16 + 1e-7


def test_channels_are_averaged(here: Path) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal((LENGTH, 2))
    soundfile.write("in.wav", wave, RATE)
    found = load_recording(Path("in.wav"), RATE)
    assert found.note == "mono instead of 2 channels"
    assert np.allclose(found.waveform.numpy(), wave.mean(1), atol=2**-14)
    assert torch.equal(found.waveform * 2**15, (found.waveform * 2**15).round())


def test_full_scale_stays_within_it(here: Path) -> None:
    soundfile.write("in.wav", np.sign(np.random.default_rng(0).standard_normal(LENGTH)), RATE)
    assert attack("in.wav", "-o", "out.wav", "--steps", "2") == 0
    clean, adversarial = load_recording(Path("in.wav"), RATE).waveform, audio.read("out.wav")[0][0]
    assert float((clean - adversarial).abs().max()) <= 0.002


def test_a_folder(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip("in/a.wav", 1)
    clip("in/deep/b.flac", 2)
    clip("in/c.ogg", 3, format="OGG", subtype="VORBIS")
    Path("in/broken.wav").write_bytes(b"RIFF nothing")
    assert attack("in", "-o", "out", "--steps", "2", "--json", "r.json") == 2
    written = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert written == ["a.wav", "c.wav", "deep/b.flac"]
    said = capfd.readouterr()
    assert "audiopure: in/broken.wav: " in said.err and "1 of 4 files could not be attacked." in said.err
    assert said.out.endswith("of 3 files.\n")
    found = report()
    assert len(found["files"]) == 3 and list(found["failed"]) == ["in/broken.wav"]


def test_a_file_is_attacked_alike_alone_and_among_others(here: Path) -> None:
    for seed in range(3):
        clip(f"in/{seed}.wav", seed)
    assert attack("in", "-o", "out", "--steps", "3") == 0
    assert attack("in/1.wav", "-o", "alone.wav", "--steps", "3") == 0
    assert Path("alone.wav").read_bytes() == Path("out/1.wav").read_bytes()
    assert attack("in/1.wav", "-o", "seed.wav", "--steps", "3", "--seed", "1") == 0
    assert Path("seed.wav").read_bytes() != Path("alone.wav").read_bytes()


SMALL: dict[str, tuple[str, ...]] = {
    "pgd": ("steps=2",),
    "apgd": ("steps=4",),
    "autoattack": ("steps=3",),
    "cw": ("steps=3", "searches=2"),
    "square": ("queries=5",),
    "nes": ("steps=2", "samples=4"),
    "spsa": ("steps=2", "samples=4"),
    "fakebob": ("steps=2", "samples=4"),
    "fakebob-released": ("steps=2", "samples=4"),
    "siren": ("epochs=1", "iterations=2", "particles=4"),
    "kenansville": ("iterations=2",),
    "qin": ("succeed=3", "hide=3"),
    "low-frequency": ("steps=2",),
    "universal": ("steps=2",),
    "transfer": ("steps=2", f"surrogate={TINY}"),
    "random": (),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_attack_writes_a_file_within_its_budget(here: Path, name: str) -> None:
    source = clip("in.wav")
    words = [word for setting in SMALL[name] for word in ("--set", setting)]
    assert attack(source, "-o", "out.wav", "--attack", name, *words, "--json", "r.json") == 0
    assert audio.probe("out.wav").frames == LENGTH
    found = report()
    assert found["files"][0]["queries"] >= 1
    system = load_system(TINY)
    build = choose_attack(name, dict(word.split("=", 1) for word in SMALL[name]), system, targeted=False)
    assert repr(build) == found["attack"]
    check_budget(build, load_recording(source, RATE).waveform, audio.read("out.wav")[0][0])


def test_a_defended_system(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LONG", 0.0)
    source = clip("in.wav")
    options = ("--steps", "2", "--passes", "7", "--json", "r.json")
    assert attack(source, "-o", "out.wav", *options, system=f"small,n_star=1+{TINY}") == 0
    found = report()
    assert "eot=5" in found["attack"] and found["system"] == f"small,n_star=1+{TINY}"
    assert set(found["weights"]) == {"small", "test_cli_attack:tiny"}
    result = found["files"][0]
    assert sum(result["clean"].values()) == sum(result["attacked"].values()) == result["success"]["n"] == 7
    wrong = 7 - result["attacked"].get(result["label"], 0)
    assert result["success"]["value"] == pytest.approx(wrong / 7)
    said = capfd.readouterr()
    assert "of 7 fresh passes, 95 % interval" in said.out
    assert said.err.startswith("Attacking 1 file, ") and ": about " in said.err
    # the attack and the score replay
    first = Path("out.wav").read_bytes()
    assert attack(source, "-o", "out.wav", *options, system=f"small,n_star=1+{TINY}") == 0
    assert Path("out.wav").read_bytes() == first and report()["files"][0]["attacked"] == result["attacked"]


def test_draws_are_for_systems_that_have_them() -> None:
    fixed, random = load_system(TINY), load_system(f"small,n_star=1+{TINY}")
    assert choose_attack("pgd", {}, fixed, targeted=False).eot == 1  # type: ignore[attr-defined]
    assert choose_attack("autoattack", {}, fixed, targeted=False).eot == 1  # type: ignore[attr-defined]
    assert choose_attack("apgd", {}, random, targeted=False).eot == 5  # type: ignore[attr-defined]
    assert choose_attack("apgd", {"eot": "2"}, random, targeted=False).eot == 2  # type: ignore[attr-defined]
    chosen = choose_attack("pgd", {"eps": "0.01", "momentum": "0"}, random, targeted=False)
    assert chosen == Pgd(eps=0.01, steps=40, momentum=0, step_size=0.005, eot=5)


def test_a_clip_beyond_the_budget_is_found() -> None:
    clean = torch.zeros(100)
    change = torch.zeros(100)
    change[7] = 0.002
    check_budget(Pgd(eps=0.0021), clean, change)
    check_budget(Pgd(norm="l2", eps=0.0021), clean, change)
    for attack, wave in (
        (Pgd(eps=0.0019), change),
        (Pgd(norm="l2", eps=0.0019), change),
        (Pgd(), change[1:]),
    ):
        with pytest.raises(InputError):
            check_budget(attack, clean, wave)


def test_what_a_disk_has_changed_never_takes_its_place(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole = clip("in.wav"), audio.write
    before = clip("old.wav", 7).read_bytes()
    monkeypatch.setattr(audio, "write", lambda path, wave, *rest: whole(path, wave + 0.01, *rest))
    for name in ("out.wav", "old.wav"):
        options = ("--system", TINY, "--steps", "1", "--overwrite")
        assert "was not kept: read back" in refused(capfd, "attack", source, "-o", name, *options)
    assert sorted(path.name for path in here.iterdir()) == ["in.wav", "old.wav"]
    assert Path("old.wav").read_bytes() == before


def test_a_run_goes_on_after_what_it_has_written(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("a.wav", "b.flac", "c.ogg")):
        clip(f"in/{name}", seed)
    arguments = ("attack", "in", "-o", "out", "--system", TINY, "--steps", "2")
    assert run(*arguments) == 0
    whole = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert whole.keys() == {"a.wav", "b.flac", "c.wav"}
    Path("out/b.flac").unlink()
    Path("out/c.wav").write_bytes(b"of before")
    capfd.readouterr()
    assert run(*arguments, "--resume") == 0
    said = capfd.readouterr().out
    assert "in/b.flac" in said and "in/a.wav" not in said and "in/c.ogg" not in said
    assert Path("out/b.flac").read_bytes() == whole["b.flac"]
    assert Path("out/c.wav").read_bytes() == b"of before"
    assert run(*arguments, "--resume") == 0 and "there already" in capfd.readouterr().err
    said = refused(capfd, *arguments, "--resume", "--json", "r.json")
    assert said == "--json reports on all files, and --resume leaves some of them out; choose one."
    assert not Path("r.json").exists()
    assert "is an input;" in refused(capfd, "attack", "in/a.wav", "-o", "in", "--system", TINY, "--resume")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--label", "seven"), f"{TINY} has no label 'seven'; it has: low, high, none."),
        (("--target", "seven"), f"{TINY} has no label 'seven'; it has: low, high, none."),
        (("--attack", "magic"), "there is no attack 'magic'; there are: pgd"),
        (("--attack", "random", "--target", "low"), "the attack 'random' cannot be targeted"),
        (("--attack", "random", "--steps", "3"), "the attack 'random' has no setting 'steps'"),
        (("--attack", "transfer"), "needs a model to attack instead"),
        (("--attack", "transfer", "--set", f"surrogate={OTHER}"), "the surrogate has other labels"),
        (("--attack", "diffattack", "--set", "steps=1"), "purifier"),
        (("--set", "steps"), "--set steps: write a setting as key=value."),
        (("--set", "steps=2", "--steps", "3"), "the setting 'steps' is given twice."),
        (("--set", "bits=none"), "attacked files hold 16-bit samples: bits cannot be set."),
        (("--norm", "l7"), "pgd: norm must be linf or l2, got 'l7'"),
        (("--eps", "1e-5"), "a budget of 1e-05 is less than a step of a 16-bit sample, 3.05e-05."),
        (("--eps", "0"), "a budget must be positive and finite, got 0"),
        (("--set", "route=identity"), "the gradient route 'identity' needs a purifier"),
        (("-o", "out.ogg"), "out.ogg: an attack survives only in .wav or .flac files."),
        (("-o", "-"), "attack reads and writes files, not standard input or output."),
        (("-o", "exists.wav"), "exists.wav: exists already; --overwrite replaces it."),
        (("--json", "exists.wav"), "exists.wav: exists already; --overwrite replaces it."),
        (("--json", "nowhere/r.json"), "nowhere/r.json: is not a file in a folder that exists."),
        (("--system", "digit"), "digit"),
        (("--device", "abacus"), "the device 'abacus' cannot be used"),
    ],
)
def test_a_sentence_for_what_cannot_be_done(
    here: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    clip("in.wav")
    clip("exists.wav")
    before = Path("exists.wav").read_bytes()
    options = () if "--system" in arguments else ("--system", TINY)
    output = () if "-o" in arguments else ("-o", "out.wav")
    assert sentence in refused(capfd, "attack", "in.wav", *output, *options, *arguments)
    assert sorted(path.name for path in here.iterdir()) == ["exists.wav", "in.wav"]
    assert Path("exists.wav").read_bytes() == before


def test_recordings_that_cannot_be_attacked(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("empty.wav").write_bytes(b"")
    broken = 0.1 * np.ones(LENGTH)
    broken[5] = np.nan
    soundfile.write("nan.wav", broken, RATE, subtype="FLOAT")
    clip("short.wav", length=500)
    cut = clip("cut.wav").read_bytes()[:2000]
    Path("cut.wav").write_bytes(cut)
    names = sorted(path.name for path in here.iterdir())
    for name, sentence in (
        ("empty.wav", "is empty"),
        ("nan.wav", "sample 5 of channel 0 is nan"),
        ("short.wav", "31.2 ms are too short to attack"),
        ("cut.wav", "is cut off"),
        ("missing.wav", "no such file"),
    ):
        said = refused(capfd, "attack", name, "-o", "out.wav", "--system", TINY)
        assert said.startswith(f"{name}: ") and sentence in said
        assert sorted(path.name for path in here.iterdir()) == names


def test_one_change_for_many_files_is_another_matter(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip("in/a.wav")
    clip("in/b.wav")
    said = refused(capfd, "attack", "in", "-o", "out", "--system", TINY, "--attack", "universal")
    assert "each file is attacked alone here" in said and not Path("out").exists()
