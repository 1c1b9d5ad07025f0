"""The functions most people need: what they accept, refuse and promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from core_helpers import random_denoiser, signal
from safetensors.torch import save_file
from torch import Tensor

import audiopure
from audiopure import FixedLevel, InputError, SeededNoise, SpeechLevel, WeightsError
from audiopure.nets.diffwave import DiffWave
from audiopure.nets.stft_denoiser import StftDenoiser
from audiopure.purifier import Purifier

NOISE = SeededNoise(2)
TINY = {"channels": 4, "skip_channels": 4, "layers": 2, "dilation_cycle": 2}


def purifier() -> Purifier:
    return Purifier(random_denoiser(), level=SpeechLevel())


def single(length: int = 4000) -> Tensor:
    return signal(1, length)[0].float()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros(100, dtype=np.float32), "must be a torch tensor .* got ndarray"),
        ([0.0] * 100, "must be a torch tensor .* got list"),
        (torch.tensor(0.1), r"floating-point tensor \(\.\.\., time\), got torch.float32 \(\)"),
        (torch.zeros(100, dtype=torch.int16), r"floating-point tensor .* got torch.int16 \(100,\)"),
        (torch.zeros(100, dtype=torch.complex64), "got torch.complex64"),
        (torch.zeros(0), "empty"),
        (torch.tensor([0.0, torch.nan]), "not finite"),
        (torch.full((100,), 2.0), r"must lie in \[-1, 1\]; the largest is 2"),
    ],
)
def test_what_is_no_waveform_is_refused_in_one_sentence(bad, reason):
    with pytest.raises(InputError, match=reason) as caught:
        audiopure.purify(bad, 16_000, purifier=purifier())
    assert "\n" not in str(caught.value)


def test_less_than_a_sample_at_the_working_rate_is_refused():
    with pytest.raises(InputError, match="1 samples at 48000 Hz are too short"):
        audiopure.purify(torch.zeros(1), 48_000, purifier=purifier())
    with pytest.raises(InputError, match="Cannot resample from 0 Hz"):
        audiopure.purify(torch.zeros(100), 0, purifier=purifier())


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_floating_type_is_kept_and_half_types_are_worked_on_in_float32(dtype, rate):
    small = Purifier(random_denoiser().float(), level=SpeechLevel())
    x = single().to(dtype)
    out = audiopure.purify(x, rate, purifier=small, noise=NOISE)
    assert out.dtype == dtype and out.shape == x.shape
    if dtype in (torch.bfloat16, torch.float16):
        exact = audiopure.purify(x.float(), rate, purifier=small, noise=NOISE)
        assert torch.equal(out, exact.to(dtype))


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_a_waveform_that_requires_a_gradient_gives_the_same_without_one(rate):
    x = single()
    expected = audiopure.purify(x, rate, purifier=purifier(), noise=NOISE)
    out = audiopure.purify(x.clone().requires_grad_(), rate, purifier=purifier(), noise=NOISE)
    assert torch.equal(out, expected) and not out.requires_grad
    # an ordinary tensor: what is trained on it can be differentiated
    weight = torch.ones(len(x), requires_grad=True)
    (gradient,) = torch.autograd.grad((weight * out).sum(), weight)
    assert torch.equal(gradient, out)


def test_leading_dimensions_are_kept_and_rows_are_items():
    x = signal(4, 3000).float().reshape(2, 2, 3000)
    out = audiopure.purify(x, 22_050, purifier=purifier(), noise=NOISE)
    assert out.shape == x.shape
    alone = audiopure.purify(x[1, 0], 22_050, purifier=purifier(), noise=NOISE.for_items([2]))
    torch.testing.assert_close(out[1, 0], alone, rtol=1e-4, atol=1e-5)


# --- loading ------------------------------------------------------------------------------------------------


def store(path: Path, module: DiffWave | StftDenoiser, kind: str, **config: object) -> Path:
    """A weights file written by hand, as a stranger may; `config` replaces entries, None removes them."""
    facts = {k: v for k, v in {**module.config, **config}.items() if v is not None}
    metadata = {"format": "audiopure-1", "kind": kind, "card": "{}", "config": json.dumps(facts)}
    tensors = {k: v.contiguous() for k, v in module.state_dict().items()}
    save_file(tensors, path, {**metadata, "architecture": type(module).__name__})
    return path


def test_the_default_level_is_that_of_speech_where_the_constructor_keeps_the_papers():
    assert audiopure.load_purifier().level == SpeechLevel()
    assert audiopure.load_purifier(level=FixedLevel()).level == FixedLevel()
    assert Purifier(random_denoiser()).level == FixedLevel()


def test_an_eps_network_brings_its_own_schedule(tmp_path):
    net = DiffWave(**TINY, steps=50, beta_last=0.05)  # type: ignore[arg-type]
    loaded = audiopure.load_purifier(store(tmp_path / "eps.safetensors", net, "eps"))
    assert len(loaded.schedule) == 50 and loaded.schedule.beta(50) == pytest.approx(0.05)


def test_weights_that_are_no_purifier_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds a recogniser, not a purifier"):
        audiopure.load_purifier("digits")
    net = StftDenoiser(width=12, blocks=2)
    strange = store(tmp_path / "strange.safetensors", net, "eps")
    with pytest.raises(WeightsError, match=r"strange\.safetensors .* lacks 'beta_first' of the schedule"):
        audiopure.load_purifier(strange)


def test_a_file_may_leave_out_no_part_of_its_schedule(tmp_path):
    path = store(tmp_path / "eps.safetensors", DiffWave(**TINY), "eps", steps=None)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"eps\.safetensors .* lacks 'steps' of the schedule"):
        audiopure.load_purifier(path)
