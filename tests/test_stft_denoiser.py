"""The compact network: exact analysis and synthesis, padding, chunks, noise levels, precision and cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from core_helpers import random_denoiser, signal
from scipy.signal import get_window
from torch.utils.flop_counter import FlopCounterMode

from audiopure.nets.stft_denoiser import BINS, HOP, WINDOW, StftDenoiser, frame_count

LENGTHS = [1, 127, 128, 129, 512, 1000]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_synthesis_inverts_analysis(length, dtype):
    net, x = StftDenoiser(width=4, blocks=1).to(dtype), signal(2, length).to(dtype)
    spectrum = net._analyse(x)
    assert spectrum.shape == (2, frame_count(length), BINS)
    torch.testing.assert_close(net._synthesise(spectrum, length), x)


def test_analysis_is_the_windowed_fourier_transform_of_each_frame():
    x = signal(1, 1000)
    spectrum = StftDenoiser(width=4, blocks=1).double()._analyse(x)[0].numpy()
    window = get_window("hann", WINDOW)
    padded = np.pad(x[0].numpy(), (WINDOW - HOP, WINDOW))
    for frame in (0, 3, 7):
        piece = padded[frame * HOP : frame * HOP + WINDOW] * window / np.linalg.norm(window)
        np.testing.assert_allclose(spectrum[frame], np.fft.rfft(piece), atol=1e-12)


def test_white_noise_has_unit_power_in_every_bin():
    spectrum = StftDenoiser(width=4, blocks=1).double()._analyse(signal(1, 400_000, scale=1.0))[0, 8:-8]
    power = spectrum.abs().square().mean(0)[1:-1]
    assert float(power.mean()) == pytest.approx(1, abs=0.01)
    assert float((power - 1).abs().max()) < 6 * math.sqrt(4 / len(spectrum))


def test_the_window_survives_low_precision():
    net = StftDenoiser(width=4, blocks=1)
    exact = net.window.clone()
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(net.to(dtype).window, exact)
    assert torch.allclose(net.to(torch.float64).window.float(), exact, atol=1e-7)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


def test_items_of_a_padded_batch_equal_the_items_alone():
    net = random_denoiser()
    x = signal(len(LENGTHS), 1000)
    sigmas = torch.linspace(0.01, 0.5, len(LENGTHS), dtype=torch.float64)
    out = net(x, sigmas, torch.tensor(LENGTHS))
    for row, clip, n, sigma in zip(out, x, LENGTHS, sigmas, strict=True):
        alone = net(clip[None, :n], float(sigma))[0]
        torch.testing.assert_close(row[:n], alone, rtol=1e-10, atol=1e-12)
        assert not row[n:].any()


def test_noise_levels_of_items_equal_separate_calls():
    net, x = random_denoiser(), signal(3, 700)
    sigmas = [0.001, 0.03, 1.0]
    together = net(x, torch.tensor(sigmas, dtype=torch.float64))
    for row, clip, sigma in zip(together, x, sigmas, strict=True):
        torch.testing.assert_close(row, net(clip[None], sigma)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_chunk_with_a_margin_equals_the_whole(blocks):
    net = random_denoiser(blocks=blocks)
    margin = -(-net.receptive_field // HOP) * HOP
    x = signal(1, 4 * margin + 77)
    whole = net(x, 0.05)
    for start in (HOP, 5 * HOP):
        chunk = net(x[:, start : start + 3 * margin], 0.05)
        expected = whole[:, start + margin : start + 2 * margin]
        torch.testing.assert_close(chunk[:, margin : 2 * margin], expected, rtol=1e-10, atol=1e-12)


def test_the_receptive_field_is_a_bound_and_not_a_wild_one():
    net = random_denoiser(blocks=3)
    reach, centre = net.receptive_field, net.receptive_field + 200
    x = signal(1, 2 * centre).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, 0.05)[0, centre], x)
    touched = gradient[0].nonzero().flatten()
    assert int(centre - touched.min()) <= reach and int(touched.max() - centre) <= reach
    assert max(int(centre - touched.min()), int(touched.max() - centre)) > 0.8 * reach


@pytest.mark.parametrize("lengths", [None, torch.tensor([300, 170])])
def test_gradients_pass_gradcheck(lengths):
    net = random_denoiser(width=4, blocks=2)
    x = signal(2, 300).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: net(y, 0.05, lengths), x, fast_mode=True)
    sigma = torch.tensor([0.02, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: net(x.detach(), s, lengths), sigma, fast_mode=True)


def test_silence_has_finite_output_and_gradient():
    net = random_denoiser().float()
    x = torch.zeros(1, 400, requires_grad=True)
    out = net(x, 0.02)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(out.isfinite().all()) and bool(gradient.isfinite().all())


def test_a_bfloat16_body_stays_close():
    net = random_denoiser(width=48).float()
    x = signal(2, 2000).float()
    exact = net(x, 0.05)
    out = net.body_to(torch.bfloat16)(x, 0.05)
    assert out.dtype == torch.float32 and not torch.equal(out, exact)
    assert float((out - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_waveforms_come_back_in_their_type(dtype):
    net, x = random_denoiser().float(), signal(1, 500).to(dtype)
    assert torch.equal(net(x, 0.05), net(x.float(), 0.05).to(dtype))


def test_an_untrained_network_already_suppresses_noise():
    """The gain starts as a Wiener filter on the observed SNR: noise falls, a loud tone stays."""
    torch.manual_seed(0)
    net = StftDenoiser(width=16, blocks=1).double()
    tone = 0.3 * torch.sin(torch.arange(8000, dtype=torch.float64) * 0.3)[None]
    noise = 0.01 * signal(1, 8000, scale=1.0)
    with torch.no_grad():
        error = net(tone + noise, 0.01) - tone
    assert float(error.square().mean()) < 0.6 * 0.01**2


def test_the_default_size_keeps_its_budget():
    net = StftDenoiser()
    assert sum(p.numel() for p in net.parameters()) <= 2_000_000
    seconds = 10
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, seconds * net.sample_rate), 0.05)
    # the counter sees products and convolutions; a real FFT of N costs about 2.5 N log2 N, twice a frame
    frames = int(frame_count(seconds * net.sample_rate))
    fourier = frames * 2 * 2.5 * WINDOW * math.log2(WINDOW)
    assert (counter.get_total_flops() + fourier) / seconds <= 0.6e9


def test_a_shape_other_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="waveform batch"):
        StftDenoiser(width=4, blocks=1)(torch.zeros(100), 0.1)
