"""What is certified and what it means: representations, steps before the noise, bases, decibels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from audiopure import InputError, psychoacoustics
from audiopure.certification.bases import LocalSmoothing, MultiStep, OneShot, Plain
from audiopure.certification.before import Attenuate, Clip, check, steps
from audiopure.certification.laws import Gaussian
from audiopure.certification.representations import REPRESENTATIONS, Hears, Magnitude, representation
from audiopure.certification.smoothing import Smoothed
from audiopure.certification.units import audibility, decibel, meaning, octave_levels
from audiopure.defended import defend
from audiopure.diffusion.denoiser import EpsDenoiser, GaussianDenoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.frontend import LogMel, MelSpectrogram
from audiopure.level import SpeechLevel
from audiopure.nets.m5 import M5
from audiopure.nets.mel_recogniser import MelRecogniser
from audiopure.nets.mel_resnet import MelResNet
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

LABELS = ("no", "yes")


def sounds(count: int, length: int = 16_000, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def recogniser() -> MelResNet:
    torch.manual_seed(0)
    return MelResNet(labels=LABELS, width=8, mels=16).eval().requires_grad_(False)


@pytest.mark.parametrize("name", [name for name in REPRESENTATIONS if name != "waveform"])
def test_without_noise_every_object_gives_the_recognisers_answer(name: str, recogniser: MelResNet) -> None:
    clips = sounds(3, 12_000)
    found = representation(name, recogniser)
    torch.testing.assert_close(Hears(found)(found.encode(clips)), recogniser(clips), rtol=1e-4, atol=1e-4)


def test_other_recognisers_with_a_log_mel_work_and_those_without_say_so() -> None:
    torch.manual_seed(0)
    net = MelRecogniser("vgg19bn", LABELS).eval().requires_grad_(False)
    found, clips = representation("log-mel", net), sounds(2)
    torch.testing.assert_close(Hears(found)(found.encode(clips)), net(clips), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="only its waveform"):
        representation("spectrogram", M5())
    with pytest.raises(InputError, match="waveform, spectrogram"):
        representation("cepstrum", net)


class Heard(nn.Module):
    """A recogniser whose front end takes magnitudes to another power."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.frontend = LogMel(
            MelSpectrogram(16_000, n_fft=512, hop=128, n_mels=20, power=power, pad_mode="constant")
        )

    def padded(self, waveform: Tensor) -> Tensor:
        return waveform

    def from_log_mel(self, decibel: Tensor) -> Tensor:
        return decibel.mean(2)


@pytest.mark.parametrize("power", [None, 1.0, 1.5, 2.0])
def test_magnitudes_stretch_no_distance_by_more_than_they_say(
    power: float | None, recogniser: MelResNet
) -> None:
    ear = recogniser if power is None else Heard(power)
    found = Magnitude(ear)
    factor = 1 / found.waveform_radius(1.0)
    a = sounds(20)
    b = a + 1e-2 * sounds(20, seed=1)
    b[0], b[1] = (
        -a[0],
        a[1] + 1e-3 * torch.cos(torch.pi * torch.arange(16_000)),
    )  # all at the Nyquist frequency
    stretched = (found.encode(a) - found.encode(b)).flatten(1).norm(dim=1) / (a - b).norm(dim=1)
    assert float(stretched.max()) <= factor
    # tight but for the two ends of the spectrum: a constant shift of silence comes close
    level = found.encode(torch.full((1, 16_000), 0.1)).norm() / torch.full((16_000,), 0.1).norm()
    assert float(level) > 0.6 * factor
    assert found.implied(0.7) == {"waveform L2": found.waveform_radius(0.7)}
    assert all(
        representation(n, recogniser).implied(0.7) == {} for n in ("waveform", "filterbank", "log-mel")
    )
    once = Hears(found)(found.encode(a))
    direct = ear.from_log_mel(ear.frontend(ear.padded(a)))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(once, direct, rtol=1e-4, atol=1e-4)


def test_only_what_brings_no_clips_apart_may_come_before_the_noise() -> None:
    a, b = 2 * sounds(50), 2 * sounds(50, seed=1)
    for step in steps("clip, gain=0.5"):
        for p in (1.0, 2.0):
            step = check(step, f"L{p:g}", "waveform")
            assert ((step(a) - step(b)).norm(p=p, dim=1) <= (a - b).norm(p=p, dim=1)).all()
    assert steps("") == ()
    for name in ("peak", "rms", "resample", "purify"):
        with pytest.raises(InputError, match="cannot come before the noise"):
            steps(f"clip,{name}")
    with pytest.raises(InputError, match="there are: clip"):
        steps("smooth")
    with pytest.raises(InputError, match="further apart"):
        Attenuate(1.5)
    with pytest.raises(InputError, match="not known to be 1-Lipschitz"):
        check(nn.Identity(), "L2", "waveform")
    with pytest.raises(InputError, match=r"Clip is not known to be 1-Lipschitz in .* \(L7 of the waveform\)"):
        check(Clip(), "L7", "waveform")
    assert check(Clip(), "L2", "waveform") == Clip()
    assert check(Attenuate(0.5), "L7", "log-mel") == Attenuate(0.5)


@pytest.mark.parametrize("name", [name for name in REPRESENTATIONS if name != "waveform"])
def test_other_objects_have_steps_of_their_own(name: str, recogniser: MelResNet) -> None:
    """Two tones that differ in phase look alike, until clipping gives them different overtones."""
    found = representation(name, recogniser)
    time = 2 * math.pi * torch.arange(16_000.0) / 16_000
    a, b = (
        1.5 * (torch.sin(700 * time) + 0.5 * torch.sin(2100 * time + phase))[None] for phase in (0.0, math.pi)
    )

    def apart(step: Clip | Attenuate) -> float:
        change = found.encode(step(a)) - found.encode(step(b))
        return float(change.norm() / (found.encode(a) - found.encode(b)).norm())

    assert apart(Clip()) > 1
    with pytest.raises(InputError, match=f"L2 of the {name}"):
        Smoothed(Hears(found), Gaussian(1.0), found, before=(Clip(),))
    assert apart(Attenuate(0.5)) <= 1
    Smoothed(Hears(found), Gaussian(1.0), found, before=(Attenuate(0.5),))


class Loudness(nn.Module):
    """Two scores, of the sound's energy and of its first sample."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.square().mean(1), x[:, 0]], 1)


def gaussian() -> GaussianDenoiser:
    return GaussianDenoiser(torch.zeros(64), torch.full((64,), 0.09))


def test_one_shot_is_one_call_at_the_noise_level() -> None:
    noisy = sounds(4, 64)
    base = OneShot(gaussian(), Loudness(), 0.3)
    torch.testing.assert_close(base(noisy, noise=SeededNoise(0)), Loudness()(0.5 * noisy))
    assert torch.equal(Plain(Loudness())(noisy, noise=SeededNoise(0)), Loudness()(noisy))


class Zero(nn.Module):
    receptive_field = 0

    def __init__(self) -> None:
        super().__init__()
        self.index: list[float] = []

    def forward(self, x: Tensor, index: Tensor, lengths: Tensor | None) -> Tensor:
        self.index += index.tolist()
        return torch.zeros_like(x)


def test_a_noise_estimator_is_asked_between_its_steps() -> None:
    """alpha_bar = 1 / (1 + sigma^2), not the paper's misprint, which would ask at step 66 for .25."""
    net, schedule = Zero(), NoiseSchedule.linear()
    for sigma, step in ((0.25, 34), (0.5, 66), (1.0, 117)):
        OneShot(EpsDenoiser(net, schedule), Loudness(), sigma)(sounds(1, 64), noise=SeededNoise(0))
        asked = net.index[-1] + 1
        assert round(asked) == step and asked != step
        assert schedule.alpha_bar(asked) == pytest.approx(1 / (1 + sigma**2))
    # a level policy may lift a quiet clip's noise beyond the schedule
    OneShot(EpsDenoiser(net, schedule), Loudness(), 9.0)(sounds(1, 64), noise=SeededNoise(0))
    assert net.index[-1] + 1 == pytest.approx(len(schedule))


def test_level_after_the_noise_rescales_sigma_with_the_clip() -> None:
    """A denoiser that is linear for each sigma tells by its gain which sigma it was given."""
    level = SpeechLevel(target=0.1, minimum=0.5, maximum=4.0)
    quiet = 0.02 * torch.sin(torch.arange(4096) / 3)[None]
    noisy = quiet + 0.01 * sounds(1, 4096) / 0.1
    base = OneShot(
        GaussianDenoiser(torch.zeros(4096), torch.full((4096,), 0.01)), Loudness(), 0.01, level=level
    )
    gain = float((base.denoise(noisy) / noisy).mean())
    # speech of RMS .014 is lifted fourfold at most: sigma becomes .04 and the gain .01 / (.01 + .0016)
    assert gain == pytest.approx(0.01 / (0.01 + (0.01 * 4.0) ** 2), rel=1e-3)
    fixed = OneShot(base.denoiser, Loudness(), 0.01)
    assert float((fixed.denoise(noisy) / noisy).mean()) == pytest.approx(0.01 / 0.0101, rel=1e-3)


@pytest.mark.parametrize("steps_", [1, 3])
def test_chains_of_a_gaussians_exact_denoiser_sample_its_posterior(steps_: int) -> None:
    """Mean and variance of x0 given the noisy clip; one step gives the mean alone."""
    chains = MultiStep(gaussian(), Loudness(), 0.3, steps=steps_, votes=2)
    noisy = torch.full((2000, 64), 0.2)
    found = chains.denoise(noisy, SeededNoise(0))
    assert float(found.mean()) == pytest.approx(0.5 * 0.2, abs=2e-3)
    if steps_ == 1:
        assert torch.equal(found, chains.denoise(noisy, SeededNoise(1)))
    else:
        assert 0 < float(found.var()) < 0.09 / 2  # of the posterior, which few steps do not reach
        assert not torch.equal(found, chains.denoise(noisy, SeededNoise(1)))


def test_votes_of_chains_and_of_local_noise_add_up_and_replay() -> None:
    noisy = sounds(3, 64)
    for base in (
        MultiStep(gaussian(), Loudness(), 0.3, steps=3, votes=7),
        LocalSmoothing(OneShot(gaussian(), Loudness(), 0.3), count=7, local=0.05),
    ):
        scores = base(noisy, noise=SeededNoise(0))
        assert torch.equal(scores.sum(1), torch.full((3,), 7.0))
        assert torch.equal(scores, base(noisy, noise=SeededNoise(0)))
    with pytest.raises(InputError):
        MultiStep(gaussian(), Loudness(), 0.3, votes=0)
    with pytest.raises(InputError, match="sigma must lie"):
        MultiStep(gaussian(), Loudness(), 100.0)
    with pytest.raises(InputError):
        LocalSmoothing(OneShot(gaussian(), Loudness(), 0.3), local=0.0)


class Silent(nn.Module):
    """Answers with nothing that could win."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 3), math.nan)


def test_votes_of_scores_that_are_not_finite_are_no_votes() -> None:
    once = OneShot(gaussian(), Silent(), 0.3)
    for base in (MultiStep(gaussian(), Silent(), 0.3), LocalSmoothing(once)):
        with pytest.raises(InputError, match="not finite"):
            base(sounds(2, 64), noise=SeededNoise(0))


def test_a_defended_model_draws_its_own_noise_anew() -> None:
    purifier = Purifier(gaussian(), n_star=3)
    base, noisy = Plain(defend(Loudness(), purifier, sample_rate=16_000)), sounds(3, 64)
    once, other = (base(noisy, noise=SeededNoise(seed)) for seed in (0, 1))
    assert not torch.equal(once, other) and torch.equal(once, base(noisy, noise=SeededNoise(0)))


def test_decibels_of_a_radius() -> None:
    t = torch.arange(16_000, dtype=torch.float64) / 16_000
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * t)
    norm = float(tone.norm())
    found = meaning(tone, norm / 10, 16_000)
    assert found.snr == pytest.approx(20)
    assert found.rms == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)) - 20)
    assert found.octaves[1000] == pytest.approx(20, abs=0.01) and found.octaves[4000] < -60
    assert octave_levels(tone, 16_000)[1000] == pytest.approx(norm, rel=1e-3)
    assert decibel(1.0, 0.0) == math.inf and decibel(0.0, 1.0) == -math.inf and decibel(0.0, 0.0) == 0.0
    assert set(octave_levels(tone, 1000)) == {125, 250, 500}
    assert list(octave_levels(tone, 16_000)) == [125, 250, 500, 1000, 2000, 4000, 8000]
    assert 4000 in octave_levels(tone, 11_025) and 8000 not in octave_levels(tone, 11_025)
    high = 0.5 * torch.sin(2 * torch.pi * 7000 * t) + 0.1 * torch.cos(torch.pi * 16_000 * t)
    # half of the last octave, and half the sample rate itself, which has no conjugate
    assert octave_levels(high, 16_000)[8000] == pytest.approx(float(high.norm()), rel=1e-6)


def test_what_stays_below_the_mask_is_no_larger_than_the_limit_and_what_rises_above_no_smaller() -> None:
    t = torch.arange(16_000) / 16_000
    clip = 0.3 * torch.sin(2 * torch.pi * 440 * t) + 0.2 * torch.sin(2 * torch.pi * 1500 * t)
    mask = audibility(clip, 16_000)
    assert mask is not None
    masking = psychoacoustics.masking_threshold(clip[None], 16_000)
    generator = torch.Generator().manual_seed(0)
    for kind in range(20):
        change = torch.randn(1, 16_000, generator=generator)
        if kind % 2:  # shaped like the clip, which fills the mask better
            change = change * 0.01 + clip
        above = (psychoacoustics.relative_psd(change, masking) / masking.threshold).amax()
        barely = change * float(above) ** -0.5 * (1 - 1e-4)
        assert mask.smallest <= float(barely.norm()) * (1 + 1e-3) and float(barely.norm()) <= mask.largest
    found = meaning(clip, 2 * mask.largest, 16_000)
    assert found.inaudible == pytest.approx(20 * math.log10(2)) and found.noticeable > 0  # type: ignore[operator]
    assert found.heard == 1.0 or found.heard > 0.5  # type: ignore[operator]
    assert meaning(clip, mask.smallest / 2, 16_000).noticeable < 0  # type: ignore[operator]


def test_silence_and_low_rates_have_no_mask() -> None:
    assert audibility(torch.zeros(100), 16_000) is None and audibility(torch.ones(100), 2000) is None
    assert meaning(torch.zeros(100), 0.1, 16_000).inaudible is None
    with pytest.raises(InputError, match="finite"):
        meaning(torch.full((4,), math.nan), 0.1, 16_000)
