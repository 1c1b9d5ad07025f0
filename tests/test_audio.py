"""Audio files: every bad input is refused with one sentence, and good samples survive exactly."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiopure import audio
from audiopure.errors import InputError

RATE = 16000


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype(np.float32))


def encoded(format: str, subtype: str, samples: np.ndarray | None = None, rate: int = RATE) -> bytes:
    """A file made by libsndfile alone, independent of `audiopure.audio.write`."""
    if samples is None:
        samples = 0.3 * np.random.default_rng(1).standard_normal(8000).clip(-3, 3)
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=format, subtype=subtype)
    return stream.getvalue()


WAV, FLAC = encoded("WAV", "PCM_16"), encoded("FLAC", "PCM_16")
OGG, OPUS = encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")


def patched(data: bytes, offset: int, *, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def flac_with(*, rate: int | None = None, frames: int | None = None) -> bytes:
    packed = int.from_bytes(FLAC[18:26], "big")
    if rate is not None:
        packed = packed & (2**44 - 1) | rate << 44
    if frames is not None:
        packed = packed & ~(2**36 - 1) | frames
    return patched(FLAC, 18, value=packed.to_bytes(8, "big"))


def spoilt(value: float) -> bytes:
    samples = np.zeros((3000, 2), np.float32)
    samples[2017, 1] = value
    return encoded("WAV", "FLOAT", samples)


# name of the case: (file name, its bytes, what the message must say)
BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.wav", b"", "is empty"),
    "text": ("a.wav", b"this is no sound at all", "not a WAV, FLAC or Ogg"),
    "wav cut off": ("a.wav", WAV[:-4000], "promises 8000 samples a channel, the file holds 6000"),
    "wav cut off by a sample": ("a.wav", WAV[:-2], "promises 8000 .* holds 7999"),
    "wav cut off in header": ("a.wav", WAV[:30], "WAV"),
    "flac cut off": ("a.flac", FLAC[: len(FLAC) // 2], r"promises 8000 .*, \d+ could be decoded"),
    "flac cut off at the end": ("a.flac", FLAC[:-3], r"promises 8000 .*, [1-7]\d+ could be decoded"),
    "flac cut off in header": ("a.flac", FLAC[:20], "cut off within its FLAC header"),
    "vorbis cut off": ("a.ogg", OGG[: len(OGG) // 2], "cut off"),
    "vorbis cut off at the end": ("a.ogg", OGG[:-2], "cut off"),
    "opus cut off": ("a.ogg", OPUS[:-100], "cut off"),
    "flac damaged": ("a.flac", patched(FLAC, len(FLAC) // 2, value=bytes(40)), "damaged"),
    "vorbis damaged": ("a.ogg", patched(OGG, len(OGG) * 3 // 4, value=bytes(40)), "damaged"),
    "wav declares too little": (
        "a.wav",
        patched(WAV, 40, value=struct.pack("<I", 200)),
        "declares 100 samples",
    ),
    "wav declares nothing": ("a.wav", patched(WAV, 40, value=bytes(4)), "declares 0 samples"),
    "flac declares too little": ("a.flac", flac_with(frames=100), "checksum"),
    "flac declares too much": ("a.flac", flac_with(frames=10**7), "promises 10000000 .*, 8000 could"),
    "wav wrong channels": ("a.wav", patched(WAV, 22, value=b"\2\0"), "contradicts itself"),
    "wav wrong rate": ("a.wav", patched(WAV, 24, value=struct.pack("<I", 48000)), "contradicts itself"),
    "wav zero rate": ("a.wav", patched(WAV, 24, value=bytes(4)), "at 0 Hz"),
    "flac zero rate": ("a.flac", flac_with(rate=0), "0 Hz"),
    "absurd rate": ("a.wav", encoded("WAV", "PCM_16", rate=10), "declares 10 Hz"),
    "no samples": ("a.wav", encoded("WAV", "PCM_16", np.zeros(0)), "holds no samples"),
    "nan": ("a.wav", spoilt(np.nan), "sample 2017 of channel 1 is nan"),
    "infinity": ("a.wav", spoilt(-np.inf), "sample 2017 of channel 1 is -inf"),
    "out of range": ("a.wav", spoilt(-4.0), r"sample 2017 of channel 1 is -4, .* by at most 0\.25"),
    "unsupported": ("a.mp3", WAV, r"unsupported extension '\.mp3'"),
    "misnamed": ("a.flac", WAV, "named as FLAC but holds WAV"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused(case: str, tmp_path: Path) -> None:
    name, data, message = BAD[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        audio.read(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match=message), audio.BlockReader(path, block=1000) as reader:
        for _ in reader:
            pass


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        audio.read(tmp_path / "absent.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        audio.read(tmp_path / "folder.wav")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([WAV, FLAC, OGG, OPUS]), st.integers(0, 999))
def test_no_truncation_passes(data: bytes, kept: int) -> None:
    with pytest.raises(InputError):
        audio.read(data[: kept * len(data) // 1000])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([WAV, FLAC, OGG, OPUS]), st.data())
def test_damage_raises_nothing_else(data: bytes, draw: st.DataObject) -> None:
    """Whatever a byte of the header becomes, the file is read in range or refused as input."""
    offset = draw.draw(st.integers(0, 200))
    damaged = patched(data, offset, value=draw.draw(st.binary(min_size=1, max_size=4)))
    try:
        waveform, _ = audio.read(damaged)
    except InputError:
        return
    assert waveform.numel() and waveform.abs().max() <= 1


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_every_16_bit_value_survives(extension: str, tmp_path: Path) -> None:
    values = np.arange(-32768, 32768, dtype=np.int16)
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, values, RATE, subtype="PCM_16")
    waveform, rate = audio.read(path)
    assert rate == RATE and np.array_equal(waveform[0].numpy() * 32768, values)
    assert audio.write(path, waveform, rate) == 0
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], values)


def test_16_bit_wav_read_by_the_standard_library(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).integers(-32768, 32768, (500, 2), dtype=np.int16)
    audio.write(tmp_path / "a.wav", torch.from_numpy(expected.T / np.float32(32768)), 44100)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 44100, 2)
        assert np.array_equal(np.frombuffer(file.readframes(500), "<i2").reshape(-1, 2), expected)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2.0**-7),
        ("a.wav", "PCM_16", 2.0**-15),
        ("a.wav", "PCM_24", 2.0**-23),
        ("a.wav", "PCM_32", 2.0**-31),
        ("a.wav", "FLOAT", 0.0),
        ("a.wav", "DOUBLE", 0.0),
        ("a.flac", "PCM_16", 2.0**-15),
        ("a.flac", "PCM_24", 2.0**-23),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_round_trip(name: str, subtype: str, step: float, channels: int, tmp_path: Path) -> None:
    original = noise(channels, 70001)
    audio.write(tmp_path / name, original, 22050, subtype)
    info = audio.probe(tmp_path / name)
    assert (info.sample_rate, info.channels, info.frames) == (22050, channels, 70001)
    assert info.subtype == subtype and info.seconds == pytest.approx(70001 / 22050)
    once, _ = audio.read(tmp_path / name)
    # Half a step of rounding, plus the float32 spacing below 1 that a 32-bit value meets on reading.
    assert (once - original).abs().max() <= step / 2 + (2.0**-24 if subtype == "PCM_32" else 0)
    audio.write(tmp_path / name, once, 22050, subtype)
    assert torch.equal(audio.read(tmp_path / name)[0], once)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_lossy_round_trip(subtype: str, tmp_path: Path) -> None:
    time = torch.arange(3 * RATE) / RATE
    tones = torch.stack([0.5 * torch.sin(2 * torch.pi * f * time) for f in (300, 900)])
    audio.write(tmp_path / "a.ogg", tones, RATE, subtype)
    decoded, rate = audio.read(tmp_path / "a.ogg")
    assert rate == RATE and abs(decoded.shape[1] - tones.shape[1]) < 1000
    inner = slice(RATE, 2 * RATE)
    error = (decoded[:, inner] - tones[:, inner]).pow(2).mean() / tones[:, inner].pow(2).mean()
    assert error < 1e-2


def test_long_vorbis_in_one_block(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.ogg", torch.zeros(1, 1 << 22), 48000)
    assert audio.probe(tmp_path / "a.ogg").frames == 1 << 22


class Pipe(io.RawIOBase):
    """A stream that cannot seek, for reading or writing."""

    def __init__(self, data: bytes = b"") -> None:
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self.inner.readinto(buffer)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self.inner.write(data)


@pytest.mark.parametrize("data", [WAV, FLAC, OGG, OPUS], ids=["wav", "flac", "vorbis", "opus"])
def test_sources_agree(data: bytes) -> None:
    expected = torch.from_numpy(soundfile.read(io.BytesIO(data), dtype="float32")[0])[None].clamp(-1, 1)
    for source in (data, io.BytesIO(data), Pipe(data)):
        assert torch.equal(audio.read(source)[0], expected)  # type: ignore[arg-type]


def test_operating_system_pipe() -> None:
    receive, send = os.pipe()
    with os.fdopen(receive, "rb") as reading, os.fdopen(send, "wb") as writing:

        def feed() -> None:
            writing.write(WAV)
            writing.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        waveform, _ = audio.read(reading)
        feeder.join()
    assert torch.equal(waveform, audio.read(WAV)[0])


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_wav_written_into_a_pipe(length: int) -> None:
    """ffmpeg and sox leave such a length when they cannot seek back; the file itself is whole."""
    data = patched(WAV, 40, value=struct.pack("<I", length))
    assert torch.equal(audio.read(data)[0], audio.read(WAV)[0])
    assert audio.probe(data).frames == 8000


def test_flac_of_unknown_length() -> None:
    data = flac_with(frames=0)
    assert audio.probe(data).frames == 8000
    assert torch.equal(audio.read(data)[0], audio.read(FLAC)[0])


def test_large_wav_format_and_trailing_chunk() -> None:
    samples = noise(8000).numpy()
    rf64 = encoded("RF64", "FLOAT", samples)
    assert np.array_equal(audio.read(rf64)[0][0].numpy(), samples)
    tagged = WAV + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert torch.equal(audio.read(tagged)[0], audio.read(WAV)[0])


def test_rounding_and_lossy_overshoot_are_clamped() -> None:
    slightly = encoded("WAV", "FLOAT", np.array([1.00003, -0.5, -1.00003]))
    assert audio.read(slightly)[0].tolist() == [[1.0, -0.5, -1.0]]
    square = np.sign(np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)) * 0.999
    loud = encoded("OGG", "VORBIS", square)
    assert np.abs(soundfile.read(io.BytesIO(loud))[0]).max() > 1.01
    assert audio.read(loud)[0].abs().max() == 1.0


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([WAV, FLAC, OGG]), st.integers(1, 9000))
def test_blocks_make_the_whole(data: bytes, block: int) -> None:
    with audio.BlockReader(data, block=block) as reader:
        blocks = list(reader)
    assert all(piece.shape[1] <= block for piece in blocks)
    assert torch.equal(torch.cat(blocks, dim=1), audio.read(data)[0])


def test_exception_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    with pytest.raises(ZeroDivisionError), audio.BlockWriter(path, RATE, 1) as writer:
        writer.write(noise(1, 50000))
        raise ZeroDivisionError
    assert path.read_bytes() == WAV and list(tmp_path.iterdir()) == [path]


def test_bad_sample_while_writing_leaves_nothing(tmp_path: Path) -> None:
    bad = noise(2, 1000)
    bad[1, 7] = torch.nan
    with (
        pytest.raises(InputError, match="sample 507 of channel 1 to be written is nan"),
        audio.BlockWriter(tmp_path / "a.flac", RATE, 2) as writer,
    ):
        writer.write(noise(2, 500))
        writer.write(bad)
    assert not list(tmp_path.iterdir())


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    script = (
        "import sys, torch\nfrom audiopure import audio\n"
        f"writer = audio.BlockWriter({str(path)!r}, 16000, 1)\n"
        "writer.write(torch.zeros(1, 200000))\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_bytes() == WAV
    left = [other.name for other in tmp_path.iterdir() if other != path]
    assert len(left) == 1 and left[0].endswith(".part")


def test_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    audio.write(tmp_path / "a.wav", noise(1, 10), RATE)
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_stream_receives_a_true_header() -> None:
    pipe = Pipe()
    with audio.BlockWriter(pipe, RATE, 2, subtype="PCM_24") as writer:  # type: ignore[arg-type]
        for piece in noise(2, 5000).split(777, dim=1):
            writer.write(piece)
    with wave.open(io.BytesIO(pipe.inner.getvalue())) as file:
        assert (file.getnframes(), file.getnchannels(), file.getsampwidth()) == (5000, 2, 3)


def test_stream_receives_nothing_after_an_exception() -> None:
    pipe = Pipe()
    with pytest.raises(ZeroDivisionError), audio.BlockWriter(pipe, RATE, 1) as writer:  # type: ignore[arg-type]
        writer.write(noise(1, 5000))
        raise ZeroDivisionError
    assert pipe.inner.getvalue() == b""


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_beyond_full_scale_is_clamped_and_counted(
    subtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waveform = torch.tensor([0.5, 1.0, -1.0, 1.25, -7.0])
    assert audio.write(tmp_path / "a.wav", waveform, RATE, subtype) == 2
    assert "2 samples beyond full scale" in caplog.text
    read, _ = audio.read(tmp_path / "a.wav")
    assert torch.allclose(read[0], waveform.clamp(-1, 1), atol=2.0**-15)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("PCM_24", "a.wav", "PCM_24"),
        ("FLOAT", "a.wav", "FLOAT"),
        ("FLOAT", "a.flac", "PCM_24"),
        ("PCM_16", "a.flac", "PCM_16"),
        ("VORBIS", "a.wav", "PCM_16"),
        ("OPUS", "a.ogg", "OPUS"),
        ("PCM_24", "a.ogg", "VORBIS"),
        ("MS_ADPCM", "a.wav", "PCM_16"),
    ],
)
def test_subtype_follows_the_source(source: str, target: str, expected: str, tmp_path: Path) -> None:
    like = audio.AudioInfo(RATE, 1, 100, "WAV", source)
    audio.write(tmp_path / target, noise(1, 4000), RATE, like=like)
    assert audio.probe(tmp_path / target).subtype == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: audio.write(d / "a.mp3", noise(9), RATE), "unsupported extension"),
        (lambda d: audio.write(d / "a.flac", noise(9), RATE, "FLOAT"), "FLAC has no subtype 'FLOAT'"),
        (lambda d: audio.write(d / "none" / "a.wav", noise(9), RATE), "cannot be written"),
        (lambda d: audio.write(d / "a.wav", noise(9), 0), "cannot be written as WAV"),
        (lambda d: audio.write(d / "a.flac", noise(9, 5), RATE), "9 channels"),
        (lambda d: audio.write(d / "a.wav", noise(2, 3, 4), RATE), "shape"),
        (lambda d: audio.write(d / "a.wav", torch.zeros(0), RATE), "shape"),
        (lambda d: audio.BlockWriter(d / "a.wav", RATE, 2).write(noise(1, 5)), "for 2 channels"),
        (lambda d: audio.resample(noise(9), 0, RATE), "from 0 Hz"),
        (lambda d: audio.resample(noise(9).requires_grad_(), 8000, RATE), "resample_differentiable"),
        (lambda d: audio.StreamResampler(8000, RATE, 2).push(noise(1, 9)), "2 channels"),
    ],
)
def test_bad_arguments(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_wav_over_4_gib_is_refused(tmp_path: Path) -> None:
    with audio.BlockWriter(tmp_path / "a.wav", RATE, 1) as writer:
        writer.frames = 2**31
        with pytest.raises(InputError, match="4 GiB"):
            writer.write(noise(1, 10))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (8000, 16000), (16000, 48000)])
def test_resample_gives_the_same_signal_on_the_new_grid(from_rate: int, to_rate: int) -> None:
    def chirp(rate: int) -> np.ndarray:
        time = np.arange(2 * rate) / rate
        return 0.5 * np.sin(2 * np.pi * (200 + 600 * time) * time)

    original = torch.from_numpy(np.stack([chirp(from_rate), -chirp(from_rate)]))
    ours = audio.resample(original, from_rate, to_rate)
    assert ours.shape == (2, 2 * to_rate) and ours.dtype == torch.float64
    inner = slice(1000, -1000)
    assert np.abs(ours[0].numpy() - chirp(to_rate))[inner].max() < 1e-5
    assert torch.equal(ours[0], -ours[1])


def test_resample_does_not_alias() -> None:
    tone = 0.9 * torch.sin(2 * torch.pi * 11000 * torch.arange(48000).double() / 48000)
    assert audio.resample(tone, 48000, 16000)[500:-500].abs().max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(44100, 16000), (48000, 16000), (8000, 16000), (16000, 44100), (16000, 16000)]),
    st.integers(1, 3),
    st.lists(st.integers(0, 6000), min_size=1, max_size=6),
)
def test_stream_resampler_equals_one_shot(rates: tuple[int, int], channels: int, sizes: list[int]) -> None:
    whole = noise(channels, 1 + sum(sizes))
    stream = audio.StreamResampler(*rates, channels)
    outputs = [stream.push(block) for block in whole.split([1, *sizes], dim=1)]
    joined = torch.cat([*outputs, stream.flush()], dim=1)
    expected = audio.resample(whole, *rates)
    assert joined.shape == expected.shape
    assert torch.allclose(joined, expected, atol=1e-6)


def test_resample_differentiable() -> None:
    time = torch.arange(8000, dtype=torch.float64) / 8000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * time)
    inner = slice(500, -500)
    up = audio.resample_differentiable(tone, 8000, 16000)
    assert (up - audio.resample(tone, 8000, 16000))[inner].abs().max() < 1e-4
    short = noise(60).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: audio.resample_differentiable(x, 441, 160), short)


ENDED = """
import signal, sys
from pathlib import Path
from audiopure.audio import writing

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
place = {"made": ("open", Path), "header": ("write", writing._Sink)}[sys.argv[1]]
name, owner = place
plain = getattr(owner, name)

def interrupted(*arguments):
    result = plain(*arguments)
    if owner is not Path or str(arguments[0]).endswith(".part"):
        setattr(owner, name, plain)
        signal.raise_signal(signal.SIGTERM)
    return result

setattr(owner, name, interrupted)
with writing.BlockWriter("out.wav", 16000, 1):
    pass
"""


@pytest.mark.parametrize("moment", ["made", "header"])
def test_a_signal_while_a_file_is_being_made_leaves_nothing(moment: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDED, moment], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")
    assert list(tmp_path.iterdir()) == []
