"""The equaliser of `LowFrequency`: exact where it does nothing, bounded, local, smooth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from core_helpers import signal
from torch import Tensor

from audiopure.attacks.low_frequency import Equaliser
from audiopure.noise import SeededNoise

RATE = 16_000


def test_gains_of_zero_leave_a_clip_as_it_is() -> None:
    x = signal(3, 6_000).float()
    equaliser = Equaliser(x, RATE, 16, 0.1)
    assert torch.equal(equaliser(x, x.new_zeros(equaliser.shape)), x)


@pytest.mark.parametrize(("rate", "length"), [(16_000, 6_000), (16_000, 77), (44_100, 9_001)])
@pytest.mark.parametrize("decibels", [-12.0, 5.0])
def test_an_equal_gain_scales_a_clip(decibels: float, rate: int, length: int) -> None:
    x = signal(2, length)
    equaliser = Equaliser(x, rate, 12, 0.05)
    nodes = x.new_full(equaliser.shape, decibels)
    torch.testing.assert_close(equaliser(x, nodes), x * 10 ** (decibels / 20), rtol=0, atol=1e-12)


def test_a_node_acts_on_its_band_and_time_alone() -> None:
    time = torch.arange(16_000, dtype=torch.float64) / RATE
    # nodes 6 and 12 of 16 on the mel scale: 3/5 and 4/5 of 45.2 mel (Slaney)
    tones = [200 / 3 * 15 * 6.4 ** ((mel - 15) / 27) for mel in (45.245640 * 6 / 15, 45.245640 * 12 / 15)]
    x = 0.2 * sum(torch.sin(2 * math.pi * hz * time) for hz in tones)
    assert isinstance(x, Tensor)
    equaliser = Equaliser(x[None], RATE, 16, 0.1)
    nodes = torch.zeros(equaliser.shape, dtype=torch.float64)
    nodes[0, 4:7, 6] = 6.0
    _, frames, spectrum = scipy.signal.stft(equaliser(x[None], nodes)[0].numpy(), RATE, nperseg=1024)
    gain = {
        (hz, when): 20
        * math.log10(2 * np.abs(spectrum[round(hz / RATE * 1024)][np.abs(frames - when) < 0.02]).max())
        - 20 * math.log10(0.2)
        for hz in tones
        for when in (0.2, 0.5, 0.8)
    }
    # the nearest bin of a Hann window loses up to 1.4 dB of a tone, the same at all times
    assert gain[tones[0], 0.5] - gain[tones[0], 0.2] == pytest.approx(6.0, abs=0.1)
    assert gain[tones[0], 0.8] - gain[tones[0], 0.2] == pytest.approx(0.0, abs=0.1)
    assert gain[tones[1], 0.5] - gain[tones[1], 0.2] == pytest.approx(0.0, abs=0.1)


def test_the_equaliser_has_the_gradient_of_finite_differences_and_ignores_padding() -> None:
    x = signal(1, 2_000)
    equaliser = Equaliser(x, RATE, 8, 0.05)
    nodes = 3 * SeededNoise(2).normal((1, 8 * equaliser.shape[1]), draw=0, dtype=torch.float64)
    nodes = nodes.view(equaliser.shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda n: equaliser(x, n)[:, ::97], (nodes,), fast_mode=True)
    longer = torch.nn.functional.pad(x, (0, 1_500))
    wide = Equaliser(longer, RATE, 8, 0.05)
    spread = torch.zeros(wide.shape, dtype=torch.float64)
    spread[:, : nodes.shape[1]] = nodes.detach()
    torch.testing.assert_close(
        wide(longer, spread)[:, :2_000], equaliser(x, nodes).detach(), rtol=0, atol=1e-14
    )
