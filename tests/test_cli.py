"""The command line: what it does, and one sentence with status 2 for what it cannot do."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from diffwave_reference import TINY, authors_state, tiny_net, write_authors_checkpoint
from tiny_training import CONFIG

from audiopure import __version__, audio, hub
from audiopure.choices import LEVELS, SAMPLERS
from audiopure.cli.console import duration
from audiopure.cli.files import plan
from audiopure.cli.main import COMMANDS, main
from audiopure.cli.purify import pace
from audiopure.errors import InputError
from audiopure.nets.stft_denoiser import StftDenoiser
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.stream import purify_file

RATE = 16000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small purifier."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hub.save(StftDenoiser(width=8, blocks=1), path, kind="denoiser", card={"licence": "CC0"})
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clip(path: Path | str, seconds: float = 0.3, **settings: object) -> Path:
    """A decaying tone in a file."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.4 * np.sin(2 * np.pi * 440 * time) * np.exp(-time)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE, **settings)  # type: ignore[arg-type]
    return Path(path)


def run(*arguments: str | Path) -> int:
    """The command line in this process; returns its exit status."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The sentence with which the command line refuses."""
    assert run(*arguments) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert error.startswith("audiopure: ") and error.endswith("\n") and error.count("\n") == 1, error
    return error.removeprefix("audiopure: ").rstrip("\n")


def shell(*arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "audiopure", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **settings)  # type: ignore[call-overload]


def test_help_is_quick_and_does_not_import_torch(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys, contextlib\n"
        "from audiopure.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    best = float("inf")
    for arguments in (["--help"], ["purify", "--help"], ["train", "-h"]):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        best = min(best, time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
    assert best < 1
    assert run("--help") == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in COMMANDS)


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capfd.readouterr().out == f"audiopure {__version__}\n"


def test_a_file(tiny: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = clip("in.wav", subtype="PCM_24")
    assert run("purify", source, "-o", "out.wav", "--weights", tiny, "--seed", "5") == 0
    assert capfd.readouterr() == ("", "")
    purify_file(source, "expected.wav", load(tiny), noise=SeededNoise(5))
    assert Path("out.wav").read_bytes() == Path("expected.wav").read_bytes()
    assert audio.probe("out.wav") == audio.probe(source)


def load(weights: Path) -> Purifier:
    from audiopure.api import load_purifier

    return load_purifier(weights)


def test_noise_is_fresh_unless_replayed(tiny: Path, here: Path) -> None:
    clip("in.wav", subtype="PCM_24")  # float files hold the time of writing
    for name, seed in (("a", ()), ("b", ()), ("c", ("--seed", "1")), ("d", ("--seed", "1"))):
        assert run("purify", "in.wav", "-o", f"{name}.wav", "--weights", tiny, *seed) == 0
    a, b, c, d = (Path(f"{name}.wav").read_bytes() for name in "abcd")
    assert a != b and c == d and a != c


def test_every_named_choice_runs(tiny: Path, here: Path) -> None:
    clip("in.wav", subtype="PCM_24")  # float files hold the time of writing
    results = set()
    for sampler in SAMPLERS:
        options = ("--weights", tiny, "--seed", "1", "--sampler", sampler, "--n-star", "4", "--overwrite")
        assert run("purify", "in.wav", "-o", "out.wav", *options) == 0
        results.add(Path("out.wav").read_bytes())
    assert len(results) == len(SAMPLERS)
    for option, values in (
        ("--level", LEVELS),
        ("--precision", ("fp32", "bf16")),
        ("--n-star", ("0", "2.5")),
    ):
        outcomes = set()
        for value in values:
            options = ("--weights", tiny, "--seed", "1", option, value, "--overwrite", "--threads", "1")
            assert run("purify", "in.wav", "-o", "out.wav", *options) == 0
            outcomes.add(Path("out.wav").read_bytes())
        assert len(outcomes) == 2, option


def test_folders_keep_their_structure(tiny: Path, here: Path) -> None:
    names = ["in/a.wav", "in/deep/er/b.flac", "in/deep/a.OGG"]
    for name in names:
        clip(name, format="OGG" if name.endswith("OGG") else None)
    (here / "in" / "notes.txt").write_text("not audio")
    (here / "in" / ".hidden.wav").write_text("not audio")
    clip("other.wav")
    assert run("purify", "in", "other.wav", "-o", "new/out", "--weights", tiny) == 0
    written = sorted(path.relative_to("new/out").as_posix() for path in Path("new/out").rglob("*.*"))
    assert written == ["a.wav", "deep/a.OGG", "deep/er/b.flac", "other.wav"]
    clip("single.wav")
    assert run("purify", "single.wav", "-o", "new", "--weights", tiny) == 0
    assert Path("new/single.wav").is_file()


def test_one_bad_file_among_good_ones(tiny: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "c", "e"):
        clip(f"in/{name}.wav")
    Path("in/b.wav").write_bytes(b"")
    Path("in/d.flac").write_bytes(b"fLaC but no more")
    assert run("purify", "in", "-o", "out", "--weights", tiny) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "audiopure: in/b.wav: is empty (0 bytes)."
    assert lines[1].startswith("audiopure: in/d.flac: is cut off")
    assert lines[2] == "audiopure: 2 of 5 files could not be purified."
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.wav", "c.wav", "e.wav"]


def good() -> bytes:
    buffer = io.BytesIO()
    wave = 0.3 * np.sin(np.arange(4000) * 0.1)
    soundfile.write(buffer, wave, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def not_finite(value: float) -> bytes:
    wave = np.zeros(4000, np.float32)
    wave[1234] = value
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def lying(data: bytes, samples: int) -> bytes:
    """A header that declares another number of 16-bit samples than follow."""
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", 2 * samples) + data[place + 4 :]


def flac(damage: Callable[[bytearray], object]) -> bytes:
    buffer = io.BytesIO()
    wave = 0.3 * np.random.default_rng(0).standard_normal(40000).clip(-3, 3)
    soundfile.write(buffer, wave, RATE, format="FLAC")
    data = bytearray(buffer.getvalue())
    damage(data)
    return bytes(data)


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 0xFF


BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("x.wav", lambda: b"", "x.wav: is empty (0 bytes)."),
    "not audio": ("x.wav", lambda: b"hello, this is text" * 9, "x.wav: is not a WAV, FLAC or Ogg file."),
    "other format": ("x.flac", good, "x.flac: is named as FLAC but holds WAV."),
    "no samples": ("x.wav", lambda: lying(good()[:44], 0), "x.wav: holds no samples."),
    "not a number": ("x.wav", lambda: not_finite(np.nan), "x.wav: sample 1234 of channel 0 is nan."),
    "infinite": ("x.wav", lambda: not_finite(np.inf), "x.wav: sample 1234 of channel 0 is inf."),
    "too loud": ("x.wav", lambda: not_finite(7.5), "x.wav: sample 1234 of channel 0 is 7.5, outside [-1, 1]"),
    "truncated wav": (
        "x.wav",
        lambda: good()[:-1000],
        "promises 4000 samples a channel, the file holds 3500",
    ),
    "promises more": ("x.wav", lambda: lying(good(), 9000), "promises 9000 samples a channel"),
    "promises less": (
        "x.wav",
        lambda: lying(good(), 900),
        "it declares 900 samples, but 6200 more bytes follow",
    ),
    "corrupt flac": ("x.flac", lambda: flac(flip), "x.flac: is "),
    "truncated flac": (
        "x.flac",
        lambda: flac(lambda d: d.__delitem__(slice(-9000, None))),
        "x.flac: is cut off",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("level", sorted(LEVELS))
def test_bad_audio(case: str, level: str, tiny: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, content, message = BAD[case]
    Path(name).write_bytes(content())
    # a fixed level has no first pass, so the damage is met while the output is being written
    options = ("--weights", tiny, "--level", level)
    assert message in refused(capfd, "purify", name, "-o", "out.wav", *options)
    assert [path.name for path in here.iterdir()] == [name]


PURIFY = ("purify", "in.wav", "-o", "out.wav")
MISUSES: dict[str, tuple[tuple[str, ...], str]] = {
    "missing file": (("purify", "none.wav", "-o", "out.wav"), "none.wav: no such file."),
    "one missing": (("purify", "in.wav", "none.wav", "-o", "out"), "none.wav: no such file."),
    "no output": (("purify", "in.wav"), "say where the result goes"),
    "missing folder": (
        ("purify", "in.wav", "-o", "nowhere/out.wav"),
        "nowhere/out.wav: cannot be written (No su",
    ),
    "unwritable": (("purify", "in.wav", "-o", "/dev/null/out.wav"), "cannot be written (Not a directory)."),
    "not in folder": (("purify", "folder", "-o", "/dev/null/out"), "Not a directory"),
    "odd extension": (("purify", "in.wav", "-o", "out.mp3"), "out.mp3: unsupported extension '.mp3'"),
    "odd input": (("purify", "odd.mp3", "-o", "out.wav"), "odd.mp3: unsupported extension '.mp3'"),
    "exists": (("purify", "in.wav", "-o", "old.wav"), "old.wav: exists already; --overwrite replaces it."),
    "folder to file": (("purify", "folder", "-o", "out.wav"), "goes into a folder"),
    "files to file": (("purify", "in.wav", "old.wav", "-o", "out.wav"), "goes into a folder"),
    "folder to stream": (("purify", "folder", "-o", "-"), "goes into a folder"),
    "empty folder": (("purify", "empty", "-o", "out"), "empty: holds no audio files (.wav, .flac, .ogg)."),
    "into itself": (("purify", "folder", "-o", "folder/out"), "lies inside the input folder folder."),
    "its own result": (
        ("purify", "in.wav", "old.wav", "-o", ".", "--resume"),
        "in.wav: is an input; --resume would take it for its own result.",
    ),
    "its own result, linked": (("purify", "in.wav", "-o", "link.wav", "--resume"), "link.wav: is an input;"),
    "same target": (("purify", "in.wav", "folder/in.wav", "-o", "out"), "out/in.wav: two of the inputs"),
    "stream and file": (("purify", "-", "in.wav", "-o", "out"), "standard input (-) cannot be combined"),
    "unknown sampler": ((*PURIFY, "--sampler", "euler"), "there is no sampler 'euler'; there are: ddpm, "),
    "unknown level": ((*PURIFY, "--level", "loud"), "there is no level 'loud'; there are: speech, fixed."),
    "unknown precision": (
        (*PURIFY, "--precision", "fp8"),
        "there is no precision 'fp8'; there are: fp32, bf16.",
    ),
    "unknown device": ((*PURIFY, "--device", "abacus"), "the device 'abacus' cannot be used"),
    "unknown weights": ((*PURIFY, "--weights", "huge"), "no weights at 'huge'"),
    "not weights": ((*PURIFY, "--weights", "in.wav"), "in.wav is not a readable safetensors file"),
    "recogniser": ((*PURIFY, "--weights", "digits"), "holds a recogniser, not a purifier"),
    "too many steps": ((*PURIFY, "--n-star", "201"), "n_star must lie between 0 and 200, got 201"),
    "negative steps": ((*PURIFY, "--n-star", "-1"), "n_star must lie between 0 and 200, got -1"),
    "no number": ((*PURIFY, "--n-star", "nan"), "n_star must lie between 0 and 200, got nan"),
    "half a step": (
        (*PURIFY, "--sampler", "sde", "--n-star", "1.5"),
        "needs a whole number of steps, got 1.5",
    ),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse(case: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("in.wav", "old.wav", "folder/in.wav"):
        clip(name)
    Path("empty").mkdir()
    Path("odd.mp3").write_bytes(b"ID3")
    Path("link.wav").symlink_to("in.wav")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    arguments, message = MISUSES[case]
    assert message in refused(capfd, *arguments)
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments", [("purify",), ("frobnicate",), ("purify", "x", "--frob"), ("purify", "x", "--seed", "-1")]
)
def test_usage_errors(arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error = capfd.readouterr().err
    assert "Usage" in error and "Traceback" not in error


def test_overwrite_replaces(tiny: Path, here: Path) -> None:
    source = clip("in.wav")
    before = source.read_bytes()
    assert run("purify", "in.wav", "-o", "in.wav", "--overwrite", "--weights", tiny) == 0
    assert source.read_bytes() != before
    assert [path.name for path in here.iterdir()] == ["in.wav"]


def test_streams_in_a_process_of_their_own(tiny: Path, here: Path) -> None:
    source = clip("in.flac")
    options = ("--weights", tiny, "--seed", "3")
    assert run("purify", source, "-o", "out.flac", *options) == 0
    done = shell("purify", "-", *options, input=source.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == Path("out.flac").read_bytes()
    assert audio.probe(done.stdout) == audio.probe(source)
    done = shell("purify", source, "-o", "-", *options)
    assert done.returncode == 0 and done.stdout == Path("out.flac").read_bytes()
    done = shell("purify", "-", "-o", "again.flac", *options, input=source.read_bytes())
    assert done.returncode == 0 and done.stdout == b""
    assert Path("again.flac").read_bytes() == Path("out.flac").read_bytes()


@pytest.mark.parametrize(
    "data, message",
    [(b"", "is empty (0 bytes)."), (b"RIFF", "is not a WAV"), (good()[:-10], "is cut off")],
)
def test_bad_streams(data: bytes, message: str, tiny: Path) -> None:
    done = shell("purify", "-", "--weights", tiny, input=data)
    assert (done.returncode, done.stdout) == (2, b"")
    sentence = done.stderr.decode()
    assert sentence.startswith("audiopure: standard input: ") and message in sentence
    assert sentence.count("\n") == 1


LIMITED = """
import resource, signal, sys
from audiopure.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


# of 3 s as 16-bit WAV the last buffer alone does not fit, and only closing the file finds out
@pytest.mark.parametrize("extension, limit", [("wav", 3 * 2 * RATE - 1000), ("flac", 6000), ("ogg", 1000)])
def test_a_full_disk_leaves_nothing(extension: str, limit: int, tiny: Path, here: Path) -> None:
    clip("in.wav", seconds=3)
    arguments = ("purify", "in.wav", "-o", f"out.{extension}", "--weights", str(tiny))
    command = [sys.executable, "-c", LIMITED, str(limit), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    told = done.stderr.splitlines()  # on a busy machine the cost first
    assert told[-1] == f"audiopure: out.{extension}: cannot be written (File too large)."
    assert "Traceback" not in done.stderr
    assert [path.name for path in here.iterdir()] == ["in.wav"]


@pytest.mark.parametrize("sent, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(sent: signal.Signals, status: int, tiny: Path, here: Path) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(600 * RATE)
    soundfile.write("in.wav", wave.astype(np.float32), RATE)
    command = [sys.executable, "-m", "audiopure", "purify", "in.wav", "-o", "out.wav", "--weights", str(tiny)]
    worker = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell that starts the tests in the background makes them, and so their children, ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(here.glob(".out.wav.*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(here.glob(".out.wav.*.part"))
    worker.send_signal(sent)
    _, error = worker.communicate(timeout=60)
    assert worker.returncode == status
    assert "Traceback" not in error
    assert [path.name for path in here.iterdir()] == ["in.wav"]


def test_long_work_is_announced(
    tiny: Path, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("a", 2), ("b", 3)):
        clip(f"in/{name}.wav", seconds)
    monkeypatch.setattr("audiopure.cli.purify.LONG", 0.0)
    monkeypatch.setattr("audiopure.cli.purify.pace", lambda _: 25.0)
    assert run("purify", "in", "-o", "out", "--weights", tiny) == 0
    assert capfd.readouterr().err == "Purifying 2 recordings, 5 s of audio: about 2 min 5 s.\n"


def test_pace_grows_with_the_steps(tiny: Path) -> None:
    few, many = (pace(load(tiny).replace(n_star=n)) for n in (1, 12))
    assert 0 < few < many < 10


def test_durations() -> None:
    cases = {0.1: "1 s", 59.4: "59 s", 60: "1 min", 200: "3 min 20 s", 3599.9: "1 h", 7500: "2 h 5 min"}
    assert {seconds: duration(seconds) for seconds in cases} == cases


def test_a_killed_run_over_a_folder_goes_on(
    tiny: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        clip(here / "many" / name)
    arguments = ("purify", "many", "-o", "done", "--weights", tiny, "--seed", "1")
    assert run(*arguments) == 0
    whole = {path.name: path.read_bytes() for path in (here / "done").iterdir()}
    (here / "done" / "b.wav").unlink()
    (here / "done" / "a.wav").write_bytes(b"of before")
    assert run(*arguments, "--resume") == 0
    assert (here / "done" / "b.wav").read_bytes() == whole["b.wav"]
    assert (here / "done" / "a.wav").read_bytes() == b"of before"
    capfd.readouterr()
    assert run(*arguments, "--resume") == 0 and "there already" in capfd.readouterr().err
    assert "choose one" in refused(capfd, *arguments, "--resume", "--overwrite")


def test_plan_without_files_needs_streams() -> None:
    assert [tuple(job) for job in plan(["-"], None, overwrite=False)] == [(None, None, False)]
    with pytest.raises(InputError, match="no such file"):
        plan(["./-"], "out.wav", overwrite=False)


def test_info(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("info", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["audiopure"] == __version__ and facts["torch"] == torch.__version__
    assert facts["devices"][0]["name"] == "cpu"
    assert facts["devices"][0]["threads"] == torch.get_num_threads()
    assert facts["devices"][0]["bf16"]["speed_up"] > 0
    weights = {entry["name"]: entry for entry in facts["weights"]}
    assert list(weights) == list(hub.SHIPPED)
    small = weights["small"]
    assert small["kind"] == "denoiser" and small["bytes"] == os.path.getsize(small["path"])
    assert small["parameters"] == sum(p.numel() for p in hub.load("small").parameters())
    assert small["card"] == hub.describe("small")["card"]
    assert run("info") == 0
    text = capfd.readouterr().out
    assert f"small: denoiser, StftDenoiser, {small['parameters']:,} parameters" in text
    assert __version__ in text and "bf16" in text


def test_convert(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = tiny_net()
    source = write_authors_checkpoint(authors_state(net), here / "1000000.pkl")
    cycle = ("--dilation-cycle", str(TINY["dilation_cycle"]))
    assert run("convert", source, "net.safetensors", *cycle) == 0
    assert capfd.readouterr() == ("net.safetensors\n", "")
    facts = hub.describe("./net.safetensors")
    assert facts["kind"] == "eps" and facts["card"]["source"] == "1000000.pkl"
    assert facts["config"] == net.config
    x = torch.linspace(-1, 1, 50)[None]
    torch.testing.assert_close(hub.load("./net.safetensors")(x, 2), net(x, 2), rtol=1e-5, atol=1e-5)
    clip("in.wav", seconds=0.1)
    assert run("purify", "in.wav", "-o", "out.wav", "--weights", "net.safetensors", "--n-star", "1") == 0


def test_convert_refuses(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_authors_checkpoint(authors_state(tiny_net()), here / "a.pkl")
    (here / "text.pkl").write_text("not a checkpoint")
    (here / "old.safetensors").write_text("kept")
    assert "do not make whole dilation cycles of 12" in refused(capfd, "convert", source, "b.safetensors")
    assert "none.pkl: no such file" in refused(capfd, "convert", "none.pkl", "b.safetensors")
    assert "text.pkl" in refused(capfd, "convert", "text.pkl", "b.safetensors")
    assert "name the file to write .safetensors" in refused(capfd, "convert", source, "b.pt")
    assert "there is no folder nowhere" in refused(capfd, "convert", source, "nowhere/b.safetensors")
    assert "exists already" in refused(capfd, "convert", source, "old.safetensors")
    assert sorted(path.name for path in here.iterdir()) == ["a.pkl", "old.safetensors", "text.pkl"]
    assert (here / "old.safetensors").read_text() == "kept"


def test_train(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from audiopure.data.synthetic import write_dataset

    write_dataset(here / "data" / "sc09", clips_per_label=3, seed=0)
    (here / "config.toml").write_text(CONFIG)
    arguments = ("train", "denoiser", "--config", "config.toml", "--data", "data", "--output", "run")
    assert run(*arguments) == 0
    out, error = capfd.readouterr()
    assert out == f"{Path('run/model.safetensors')}\n"
    lines = error.splitlines()
    assert lines[0].startswith("step 4: score ")
    assert "2 more steps at " in lines[1] and ": about 1 s." in lines[1]
    assert lines[2].startswith("step 8: score ")
    assert run("purify", clip("in.wav"), "-o", "out.wav", "--weights", "run/model.safetensors") == 0
    capfd.readouterr()
    (here / "config.toml").write_text(CONFIG.replace("batch = 2", "batch = 3"))
    assert "holds a run with other settings" in refused(capfd, *arguments)
    (here / "config.toml").write_text("typo = 1\n" + CONFIG)
    assert "config.toml: typo: " in refused(capfd, *arguments)
    assert "nowhere" in refused(capfd, *arguments[:-4], "--data", "nowhere", "--output", "other")
    assert "there is no recipe 'denoize'" in refused(capfd, "train", "denoize", *arguments[2:])


def test_train_says_that_it_resumes(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from audiopure.cli.console import progress
    from audiopure.cli.train import Reporter
    from audiopure.training.loop import Progress

    with progress() as bar:
        report = Reporter(bar, Path("run"))
        report(Progress(step=41, steps=100, loss=1.0, seconds_left=9.0, validation=None))
    assert capfd.readouterr().err == "Resuming run at step 40 of 100.\n"
