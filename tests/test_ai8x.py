"""The recogniser trained by others: published logits, an evaluation by SciPy, unusable files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from audiopure.data import load_dataset
from audiopure.errors import InputError, WeightsError
from audiopure.nets.ai8x import LABELS, Ai8xKws20, load_ai8x

MODELS = Path(os.environ.get("AUDIOPURE_MODELS") or Path(__file__).resolve().parents[2] / "shared" / "models")
# Logits of `up down left right` and `eight nine zero _unknown_` for a 440 Hz sine of amplitude 0.5.
PUBLISHED = {
    "ai85-kws20_v3-qat8.state_dict.pt": "-35.854 -58.006 -55.748 -61.185 -3.051 -33.571 -51.449 -21.220",
    "ai85-kws20_v3_msnoise_mixed-qat8.state_dict.pt": (
        "-33.912 -35.968 -52.123 -35.932 -6.801 -25.248 -35.771 -3.661"
    ),
}
# name, kernel, padding, pooling before the convolution
LAYERS = [
    ("voice_conv1", 0, None), ("voice_conv2", 0, None), ("voice_conv3", 1, np.max), ("voice_conv4", 0, None),
    ("kws_conv1", 1, np.max), ("kws_conv2", 0, None), ("kws_conv3", 1, np.mean), ("kws_conv4", 1, np.max),
]  # fmt: skip


def published_format(seed: int) -> dict[str, torch.Tensor]:
    """Random weights under the keys of the published files, left-overs of training included."""
    generator = torch.Generator().manual_seed(seed)
    stored = {}
    for name, weight in Ai8xKws20().state_dict().items():
        layer = name.removesuffix(".weight")
        values = torch.randn(weight.shape, generator=generator) * (2 / weight[0].numel()) ** 0.5
        stored[f"module.{layer}.op.weight"] = values
        stored[f"module.{layer}.output_shift"] = torch.tensor([1.0])
        stored[f"{layer}.op.weight"] = torch.zeros_like(values)
        stored[f"{layer}.op.bias"] = torch.ones(weight.shape[0])
    return stored


@pytest.fixture
def random_file(tmp_path: Path) -> Path:
    path = tmp_path / "random.pt"
    torch.save(published_format(3), path)
    return path


def evaluate(stored: dict[str, torch.Tensor], waveform: np.ndarray) -> np.ndarray:
    """The note's description of the network, by SciPy's correlation, one clip in float64."""
    padded = np.zeros(16384)
    padded[: len(waveform)] = waveform
    h = np.array([[padded[128 * t + c] for t in range(128)] for c in range(128)])
    for name, padding, pool in LAYERS:
        if pool is not None:
            h = np.array([[pool(row[2 * t : 2 * t + 2]) for t in range(len(row) // 2)] for row in h])
        h = np.pad(h, ((0, 0), (padding, padding)))
        weights = stored[f"module.{name}.op.weight"].double().numpy()
        h = np.array([correlate(h, weight, mode="valid")[0] for weight in weights])
        h = np.minimum(np.maximum(h, 0.0), 127 / 128)
    return stored["module.fc.op.weight"].double().numpy() @ h.reshape(-1)


def test_random_weights_follow_the_description(random_file):
    waveform = 0.5 * torch.randn(2, 16000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = load_ai8x(random_file).double()(waveform).numpy()
    assert logits.shape == (2, 21) and len(LABELS) == 21
    for row, clip in zip(logits, waveform.numpy(), strict=True):
        np.testing.assert_allclose(row, evaluate(published_format(3), clip), rtol=1e-10)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_logits(name, random_file):
    """With the published files their printed logits; without them the same sine through random weights."""
    # The phase in float32, as it was when the logits were printed: its rounding moves the third decimal.
    sine = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    if (MODELS / "ai8x-kws20" / name).is_file():
        logits = load_ai8x(MODELS / "ai8x-kws20" / name)(sine[None])[0]
        expected = [float(number) for number in PUBLISHED[name].split()]
        # Half a unit of the last printed digit, and float32 round-off.
        np.testing.assert_allclose([*logits[:4], *logits[-4:]], expected, atol=0.0006)
    else:
        logits = load_ai8x(random_file)(sine[None])[0]
        np.testing.assert_allclose(logits, evaluate(published_format(3), sine.double().numpy()), atol=1e-3)


def test_hears_spoken_digits(data_root, random_file, tmp_path_factory):
    """More than 85 % of recorded digits; without weights or recordings, what the description gives."""
    path = MODELS / "ai8x-kws20" / "ai85-kws20_v3-qat8.state_dict.pt"
    recordings = tmp_path_factory.getbasetemp() not in data_root.parents
    test = load_dataset("sc09", data_root).split("test")
    if path.is_file() and recordings:
        clips = test.stratified(50, seed=0)
        recogniser = load_ai8x(path)
        right = [LABELS[int(recogniser(clips.load(clip)[None]).argmax())] == clip.label for clip in clips]
        assert sum(right) > 0.85 * len(clips)
    else:
        waveform = test.load(test[0])
        logits = load_ai8x(random_file)(waveform[None])[0]
        expected = evaluate(published_format(3), waveform.double().numpy())
        np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_clips_are_cut_or_padded_and_gradients_reach_them(random_file):
    recogniser = load_ai8x(random_file)
    clip = 0.3 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(recogniser(clip), recogniser(clip[:, :16384]))
    padded = torch.cat([clip[:, :9000], torch.zeros(2, 7384)], dim=1)
    torch.testing.assert_close(recogniser(clip[:, :9000]), recogniser(padded))
    (gradient,) = torch.autograd.grad(recogniser(clip.requires_grad_())[:, 0].sum(), clip)
    assert gradient[:, :16384].abs().amax(dim=1).min() > 0
    assert gradient[:, 16384:].abs().max() == 0
    with pytest.raises(InputError, match=r"\(B, T\)"):
        recogniser(torch.zeros(16000))


class _Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_unusable_files_are_refused_and_never_executed(tmp_path):
    def refused(stored: object, reason: str) -> None:
        path = tmp_path / "file.pt"
        torch.save(stored, path)
        with pytest.raises(WeightsError, match=reason) as caught:
            load_ai8x(path)
        assert "file.pt" in str(caught.value)

    good = published_format(0)
    refused(
        {**good, "module.fc.op.weight": torch.zeros(12, 256)}, r"module.fc.op.weight has shape \(12, 256\)"
    )
    refused({k: v for k, v in good.items() if k != "module.kws_conv2.op.weight"}, "lacks module.kws_conv2.op")
    refused({**good, "module.extra.op.weight": torch.zeros(1)}, "unexpected module.extra.op.weight")
    refused({**good, "module.fc.op.weight": 3}, "module.fc.op.weight")
    refused({**good, "module.fc.op.weight": torch.full((21, 256), torch.nan)}, "not finite")
    refused([1, 2], "a list")
    refused({**good, "trap": _Trap(tmp_path / "executed")}, "plain PyTorch state dict")
    assert not (tmp_path / "executed").exists()


def test_missing_damaged_and_foreign_files_are_refused(tmp_path, random_file):
    with pytest.raises(WeightsError, match=r"absent.pt does not exist"):
        load_ai8x(tmp_path / "absent.pt")
    whole = random_file.read_bytes()
    for name, content in {
        "empty.pt": b"",
        "cut.pt": whole[: len(whole) // 2],
        "text.pt": b"hello\n" * 99,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            load_ai8x(tmp_path / name)
