"""Recordings cut into chunks come out as if purified whole, at any rate, in bounded memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.ndimage import uniform_filter1d
from scipy.signal import welch
from torch import Tensor

from audiopure import audio, hub
from audiopure.api import load_purifier, purify
from audiopure.errors import InputError
from audiopure.level import FixedLevel, SpeechLevel
from audiopure.nets.stft_denoiser import StftDenoiser
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.stream import purify_blocks, purify_file, windows

NOISE = SeededNoise(11)


def denoiser(seed: int = 0) -> StftDenoiser:
    """Tiny, but with weights that make every frame depend on its neighbours."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = StftDenoiser(width=8, blocks=1)
        for name, parameter in net.named_parameters():
            if name.endswith(("project.weight", "output.weight")):
                torch.nn.init.normal_(parameter, std=0.2)
    return net.eval().requires_grad_(False)


def purifier(n_star: float = 2, **settings: object) -> Purifier:
    return Purifier(denoiser(), n_star=n_star, **{"level": SpeechLevel(), **settings}).eval()  # type: ignore


def recording(seconds: float, rate: int, channels: int, seed: int = 0) -> Tensor:
    """Low-passed noise whose loudness wanders, so that a gain by chunk would show."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    wave = uniform_filter1d(rng.standard_normal((channels, count)), 7)
    wave *= 10 ** (-1.5 * np.linspace(0, 1, count)) / np.abs(wave).max() * 0.9
    return torch.from_numpy(wave.astype(np.float32))


def streamed(wave: Tensor, rate: int, model: Purifier, *, block: int = 5000, chunk: float = 0.5) -> Tensor:
    blocks = lambda: wave.split(block, dim=1)  # noqa: E731
    return torch.cat(list(purify_blocks(blocks, rate, model, noise=NOISE, chunk_seconds=chunk)), dim=1)


@pytest.mark.parametrize(
    "rate, channels, block, chunk",
    [(16000, 1, 5000, 0.5), (16000, 1, 777, 0.3), (44100, 2, 5000, 0.5), (8000, 1, 3000, 0.7)],
)
@pytest.mark.parametrize("level", [SpeechLevel(), FixedLevel()])
def test_chunks_joined_are_the_whole(rate: int, channels: int, block: int, chunk: float, level) -> None:
    model, wave = purifier(level=level), recording(4.03, rate, channels)
    whole = purify(wave, rate, purifier=model, noise=NOISE)
    parts = streamed(wave, rate, model, block=block, chunk=chunk)
    assert parts.shape == wave.shape
    torch.testing.assert_close(parts, whole, rtol=0, atol=3e-6)
    assert (whole - wave).std() > 1e-3  # something was done, so equality says something


def test_margins_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The equality above would notice a margin that is too short."""
    model, wave = purifier(), recording(4, 16000, 1)
    whole = purify(wave, 16000, purifier=model, noise=NOISE)
    monkeypatch.setattr(Purifier, "receptive_field", 512)
    assert (streamed(wave, 16000, model) - whole).abs().max() > 1e-4


def test_channels_have_their_own_noise() -> None:
    mono = recording(1, 16000, 1)
    out = streamed(mono.repeat(2, 1), 16000, purifier())
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_windows_partition_any_stream() -> None:
    rng = np.random.default_rng(0)
    for length in (1, 7, 100, 1000):
        for chunk, margin in ((100, 0), (100, 30), (64, 200)):
            stream = torch.arange(2 * length).reshape(2, length)
            cuts = np.unique(rng.integers(0, length, 5)).tolist()
            blocks = [stream[:, a:b] for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
            cores = []
            for samples, start, skip, count in windows(blocks, chunk, margin):
                assert torch.equal(samples, stream[:, start : start + samples.shape[1]])
                assert (start + skip) % chunk == 0
                assert skip == min(margin, start + skip)
                assert samples.shape[1] - skip - count == min(margin, length - start - skip - count)
                cores.append(samples[:, skip : skip + count])
            assert torch.equal(torch.cat(cores, dim=1), stream)


@pytest.mark.parametrize("rate", [8000, 11025, 12345, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("length", [7, 100, 12347])
def test_length_is_kept(rate: int, length: int) -> None:
    wave = recording(length / rate, rate, 1)
    out = streamed(wave, rate, purifier(), chunk=0.1)
    assert out.shape == wave.shape
    assert torch.isfinite(out).all()


def test_one_sample_and_less() -> None:
    assert streamed(torch.full((1, 1), 0.5), 16000, purifier()).shape == (1, 1)
    with pytest.raises(InputError, match="1 samples at 48000 Hz are too short"):
        streamed(torch.full((1, 1), 0.5), 48000, purifier())


@pytest.mark.parametrize("rate", [16000, 44100])
def test_silence_stays_quiet(rate: int) -> None:
    out = streamed(torch.zeros(1, 2 * rate), rate, load_purifier(n_star=3))
    assert torch.isfinite(out).all()
    # the forward noise is sigma 0.0246; at the largest gain, 4, what is left must be far below it
    assert out.square().mean().sqrt() < 0.0246 / 4 / 3


def test_high_band_is_removed_and_speech_band_kept(tmp_path: Path) -> None:
    """12 kHz in a 48 kHz file cannot be cleaned at 16 kHz, so it must not pass; 1 kHz stays."""
    rate = 48000
    time = np.arange(3 * rate) / rate
    wave = 0.2 * np.sin(2 * np.pi * 1000 * time) + 0.2 * np.sin(2 * np.pi * 12000 * time)
    soundfile.write(tmp_path / "in.wav", wave, rate, subtype="FLOAT")
    purify_file(tmp_path / "in.wav", tmp_path / "out.wav", load_purifier(n_star=2), noise=NOISE)
    out, _ = soundfile.read(tmp_path / "out.wav")
    bands, before = welch(wave, rate, nperseg=4800)
    _, after = welch(out, rate, nperseg=4800)
    change = 10 * np.log10(after[[100, 1200]] / before[[100, 1200]])  # bins are 10 Hz wide
    assert bands[100] == 1000 and bands[1200] == 12000
    assert abs(change[0]) < 1
    assert change[1] < -80
    assert 10 * np.log10(after[bands > 8500].max() / before[1200]) < -80


@pytest.mark.parametrize(
    "name, channels, subtype",
    [
        ("a.wav", 1, "PCM_16"),
        ("b.wav", 3, "FLOAT"),
        ("c.wav", 2, "PCM_24"),
        ("d.flac", 1, "PCM_16"),
        ("e.flac", 2, "PCM_24"),
        ("f.ogg", 2, "VORBIS"),
        ("g.wav", 1, "ULAW"),
    ],
)
def test_files_keep_rate_channels_length_and_encoding(
    name: str, channels: int, subtype: str, tmp_path: Path
) -> None:
    wave = recording(1.013, 22050, channels)
    source = tmp_path / name
    soundfile.write(source, wave.T.numpy(), 22050, subtype=subtype)
    target = tmp_path / f"out{source.suffix}"
    seen: list[float] = []
    info = purify_file(source, target, purifier(), noise=NOISE, chunk_seconds=0.3, report=seen.append)
    assert audio.probe(target) == info == audio.probe(source)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(info.seconds)
    if subtype == "FLOAT":
        decoded, rate = audio.read(source)
        expected = purify(decoded, rate, purifier=purifier(), noise=NOISE)
        torch.testing.assert_close(audio.read(target)[0], expected.clamp(-1, 1), rtol=0, atol=3e-6)


def test_extension_decides_over_the_source(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", recording(1, 16000, 1).T.numpy(), 16000, subtype="FLOAT")
    purify_file(tmp_path / "in.wav", tmp_path / "out.flac", purifier(), noise=NOISE)
    info = audio.probe(tmp_path / "out.flac")
    assert (info.format, info.subtype, info.frames) == ("FLAC", "PCM_24", 16000)


class Pipe(io.RawIOBase):
    """Bytes that can be read once and not sought."""

    def __init__(self, data: bytes):
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[override]
        return self.inner.readinto(buffer)


def test_pipes_are_read_twice() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, recording(2, 16000, 1).T.numpy(), 16000, format="FLAC")
    out, again = io.BytesIO(), io.BytesIO()
    purify_file(Pipe(buffer.getvalue()), out, purifier(), noise=NOISE)  # type: ignore[arg-type]
    purify_file(io.BytesIO(buffer.getvalue()), again, purifier(), noise=NOISE)
    assert out.getvalue() == again.getvalue()
    assert audio.probe(out.getvalue()) == audio.probe(buffer.getvalue())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite(value: float, tmp_path: Path) -> None:
    wave = recording(30, 8000, 1)
    wave[0, -5] = value
    soundfile.write(tmp_path / "in.wav", wave.T.numpy(), 8000, subtype="FLOAT")
    for level in (SpeechLevel(), FixedLevel()):
        with pytest.raises(InputError, match=r"sample 239995 of channel 0 is (nan|inf)"):
            purify_file(tmp_path / "in.wav", tmp_path / "out.wav", purifier(level=level), chunk_seconds=5)
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


WORKER = """
import json, resource, sys
import torch
torch.set_num_threads(1)
torch.set_flush_denormal(True)
from audiopure.api import load_purifier
from audiopure.noise import SeededNoise
from audiopure.stream import purify_file
model = load_purifier(sys.argv[1], n_star=1)
purify_file("short.flac", "warm.flac", model, noise=SeededNoise(11))
warm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (192 << 20), resource.RLIM_INFINITY))
purify_file("long.flac", "out.flac", model, noise=SeededNoise(11))
print(json.dumps([warm, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.fixture(scope="module")
def two_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with long.flac, two hours at 16 kHz, its first minute as short.flac, and weights."""
    folder = tmp_path_factory.mktemp("long")
    minute = recording(60, 16000, 1, seed=3)
    with audio.BlockWriter(folder / "long.flac", 16000, 1) as writer:
        for index in range(120):
            # each minute another loudness: the gain depends on all of them
            writer.write(minute.roll(7919 * index, dims=1) * (0.1 + 0.9 * index / 120))
    audio.write(folder / "short.flac", minute, 16000)
    hub.save(denoiser(), folder / "tiny.safetensors", kind="denoiser", card={})
    return folder


def test_two_hours_in_bounded_memory(two_hours: Path) -> None:
    """In 192 MiB of address space beyond what one minute took, where the waveform alone needs 440 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, "tiny.safetensors"], cwd=two_hours, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    warm, peak = json.loads(done.stdout)
    assert (peak - warm) * 1024 < 96 << 20
    assert audio.probe(two_hours / "out.flac") == audio.probe(two_hours / "long.flac")
    out, _ = audio.read(two_hours / "out.flac")
    wave, rate = audio.read(two_hours / "long.flac")
    model = load_purifier(two_hours / "tiny.safetensors", n_star=1)
    gain = model.level.gain(model.level.energy(wave.double())).float()  # type: ignore[arg-type, union-attr]
    assert gain.item() != model.level.minimum  # type: ignore[union-attr]
    # the whole-clip result, by windows with 3 s more on both sides than is compared
    for begin, end in ((0, 35), (59 * 60 + 17, 59 * 60 + 50), (119 * 60 + 25, 120 * 60)):
        start, stop = max(0, begin - 3) * rate, min(end + 3, 7200) * rate
        whole = model(wave[:, start:stop], noise=NOISE, start=start, gain=gain)
        expected = whole[:, begin * rate - start : end * rate - start].clamp(-1, 1)
        error = (out[:, begin * rate : end * rate] - expected).abs().max()
        assert error < 0.51 / 32768  # the file holds 16 bits
