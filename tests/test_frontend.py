"""Front ends against librosa, finite differences, and the paper's shapes."""

from __future__ import annotations

import copy

import librosa
import numpy as np
import pytest
import torch

from audiopure.errors import InputError
from audiopure.frontend import MFCC, LogMel, MelSpectrogram, Spectrogram, mel_filters, qkw_mel, sc09_log_mel

RATE = 16000


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """One second with a chirp, noise, and a silent third, float64."""
    rng = np.random.default_rng(7)
    t = np.arange(RATE) / RATE
    x = 0.4 * np.sin(2 * np.pi * (100 + 1500 * t) * t) + 0.05 * rng.standard_normal(RATE)
    x[9000:] = 0.0
    return x


@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", None])
@pytest.mark.parametrize(
    "n_fft,n_mels,f_min,f_max", [(2048, 32, 0.0, 8000.0), (512, 40, 20.0, 7600.0), (400, 64, 0.0, None)]
)
def test_mel_filters_equal_librosa(n_fft, n_mels, f_min, f_max, mel_scale, norm):
    expected = librosa.filters.mel(
        sr=RATE,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=f_min,
        fmax=f_max,
        htk=mel_scale == "htk",
        norm=norm,
        dtype=np.float64,
    )
    np.testing.assert_allclose(
        mel_filters(RATE, n_fft, n_mels, f_min, f_max, mel_scale, norm), expected, atol=1e-12
    )


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("n_fft,win_length,hop", [(2048, 2048, 512), (400, 400, 200), (512, 400, 160)])
def test_mel_spectrogram_equals_librosa(waveform, n_fft, win_length, hop, pad_mode, power):
    ours = MelSpectrogram(RATE, n_fft, win_length, hop, n_mels=32, power=power, pad_mode=pad_mode).double()
    expected = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=n_fft, win_length=win_length, hop_length=hop, n_mels=32, power=power,
        pad_mode=pad_mode, dtype=np.float64,
    )  # fmt: skip
    np.testing.assert_allclose(ours(torch.from_numpy(waveform)).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("top_db", [None, 80.0])
def test_log_mel_equals_power_to_db(waveform, top_db):
    mel = MelSpectrogram()
    power = mel(torch.from_numpy(waveform)).numpy()
    expected = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=top_db)
    np.testing.assert_allclose(
        LogMel(mel, top_db=top_db)(torch.from_numpy(waveform)).numpy(), expected, atol=1e-9
    )


def test_log_mel_in_float32_is_librosa_to_a_thousandth_of_a_decibel(waveform):
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=2048, hop_length=512, n_mels=32, pad_mode="constant"
    )
    expected = librosa.power_to_db(mel, top_db=None)
    ours = sc09_log_mel()(torch.from_numpy(waveform).float())
    assert ours.dtype == torch.float32
    assert expected.min() == -100.0
    # Quiet bands beside loud ones carry float32 round-off of the loud ones, so compare those above -60 dB.
    audible = expected > -60
    assert np.abs(ours.numpy() - expected)[audible].max() < 1e-3


@pytest.mark.parametrize("n_mfcc", [13, 32])
def test_mfcc_equals_librosa(waveform, n_mfcc):
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=2048, hop_length=512, n_mels=32, pad_mode="constant", dtype=np.float64
    )
    expected = librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=None), n_mfcc=n_mfcc)
    ours = MFCC(n_mfcc=n_mfcc).double()(torch.from_numpy(waveform))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_paper_shapes_and_batches():
    x = torch.randn(2, 3, RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    features = sc09_log_mel()(x)
    assert features.shape == (2, 3, 32, 32)
    torch.testing.assert_close(features[1, 2], sc09_log_mel()(x[1, 2]))
    assert qkw_mel()(x).shape == (2, 3, 32, 81)
    assert MFCC(n_mfcc=20)(x[0]).shape == (3, 20, 32)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradient_equals_finite_differences(power):
    mel = MelSpectrogram(RATE, n_fft=64, win_length=48, hop=32, n_mels=8, power=power)
    module = MFCC(LogMel(mel), n_mfcc=6).double()
    x = 0.3 * torch.randn(2, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(module, (x.requires_grad_(),))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_gradient_is_finite_at_silence(power):
    module = MFCC(LogMel(MelSpectrogram(power=power), top_db=80.0))
    x = torch.zeros(2, 4000)
    x[1, :2000] = 0.1 * torch.sin(torch.arange(2000) / 5)
    features = module(x.requires_grad_())
    (gradient,) = torch.autograd.grad(features.square().sum(), x)
    assert gradient.isfinite().all()
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0


@pytest.mark.parametrize("module,shortest", [(sc09_log_mel(), 1), (qkw_mel(), 201)])
def test_too_short_input_is_refused(module, shortest):
    assert module(torch.zeros(1, shortest)).shape[-1] == 1 + shortest // module.config.get("hop", 512)
    with pytest.raises(InputError, match=f"{shortest - 1} samples"):
        module(torch.zeros(1, shortest - 1))


@pytest.mark.parametrize(
    "arguments",
    [dict(n_mels=0), dict(f_max=9000.0), dict(f_min=500.0, f_max=400.0), dict(win_length=4096), dict(hop=0),
     dict(mel_scale="bark"), dict(power=0.0)],
)  # fmt: skip
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        MelSpectrogram(**arguments)


def test_constants_stay_exact_and_out_of_the_state_dict(waveform):
    module = MFCC()
    x = torch.from_numpy(waveform)
    reference = copy.deepcopy(module).double()(x)
    assert not module.state_dict()
    coarse = copy.deepcopy(module).to(torch.bfloat16)
    assert coarse.basis.dtype == torch.float32
    torch.testing.assert_close(coarse.double()(x), reference)
    half = module(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(x.float())
    torch.testing.assert_close(inside, module(x.float()))


def test_a_module_made_on_the_meta_device_is_complete_after_to_empty(waveform):
    with torch.device("meta"):
        module = Spectrogram(512, hop=128)
    assert torch.equal(module.to_empty(device="cpu").window, Spectrogram(512, hop=128).window)
