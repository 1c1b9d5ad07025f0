"""The purifier: padding, chunks, level, controls, precision, and how it behaves as a module."""

from __future__ import annotations

import copy

import pytest
import torch
from core_helpers import OneDraw, random_denoiser, signal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiopure.diffusion.denoiser import EpsDenoiser, GaussianDenoiser
from audiopure.diffusion.samplers import Ddpm, OneShot, ProbabilityFlow, ReverseSde
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.level import FRAME, FixedLevel, SpeechLevel
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

NOISE = SeededNoise(11)
LENGTHS = [1500, 1, 700, 1213]


def padded_batch() -> tuple[Tensor, Tensor]:
    """Clips of unequal length and level, with rubbish (not zeros) beyond their ends."""
    gains = torch.tensor([[1.0], [0.3], [3.0], [0.05]], dtype=torch.float64)
    return gains * signal(4, 1500), torch.tensor(LENGTHS)


@pytest.mark.parametrize("level", [FixedLevel(), SpeechLevel()], ids=str)
@pytest.mark.parametrize("sampler", [Ddpm(), ProbabilityFlow()], ids=str)
def test_an_item_of_a_padded_batch_equals_the_item_alone(sampler, level):
    purifier = Purifier(random_denoiser(), n_star=3, sampler=sampler, level=level)
    batch, lengths = padded_batch()
    out = purifier(batch, lengths=lengths, noise=NOISE.for_items([5, 6, 7, 8]))
    for row, n, item, clip in zip(out, LENGTHS, [5, 6, 7, 8], batch, strict=True):
        alone = purifier(clip[:n], noise=NOISE.for_items([item]))
        torch.testing.assert_close(row[:n], alone, rtol=1e-10, atol=1e-12)
        assert not row[n:].any()


def test_padding_does_not_leak_even_if_it_is_not_finite():
    batch, lengths = padded_batch()
    batch[2, 700:] = torch.nan
    batch[1, 1:] = torch.inf
    out = Purifier(random_denoiser(), level=SpeechLevel())(batch, lengths=lengths, noise=NOISE)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("n_star", [0, 3])
def test_what_lies_beyond_an_item_is_zero(n_star):
    batch, lengths = padded_batch()
    out = Purifier(random_denoiser(), n_star=n_star)(batch, lengths=lengths, noise=NOISE)
    assert not out[2, 700:].any() and bool(out[2, :700].all())


def test_a_chunk_with_its_margins_equals_the_whole():
    purifier = Purifier(random_denoiser(), n_star=2, level=SpeechLevel())
    hop, margin = purifier.denoiser.hop, purifier.receptive_field
    x = signal(1, 4 * margin)
    gain = purifier.level.gain(purifier.level.energy(x))  # type: ignore[arg-type]
    whole = purifier(x, noise=NOISE)
    start = -(-margin // hop) * hop
    chunk = purifier(x[:, start : start + 3 * margin], noise=NOISE, start=start, gain=gain)
    inner = slice(margin, 2 * margin)
    expected = whole[:, start + margin : start + 2 * margin]
    torch.testing.assert_close(chunk[:, inner], expected, rtol=1e-10, atol=1e-12)


def test_the_receptive_field_counts_every_call_of_the_network():
    denoiser = random_denoiser()
    assert Purifier(denoiser, n_star=3).receptive_field == 3 * denoiser.receptive_field
    flow = Purifier(denoiser, n_star=3, sampler=ProbabilityFlow())
    assert flow.receptive_field == 5 * denoiser.receptive_field
    assert Purifier(denoiser, n_star=0).receptive_field == 0


def test_no_sample_beyond_the_receptive_field_matters():
    purifier = Purifier(random_denoiser(), n_star=2)
    reach = purifier.receptive_field
    x = signal(1, 2 * reach + 301)
    centre = reach + 150
    changed = x.clone()
    changed[:, : centre - reach] += 1.0
    changed[:, centre + reach + 1 :] -= 1.0
    difference = (purifier(x, noise=NOISE) - purifier(changed, noise=NOISE)).abs()[0]
    assert float(difference[centre]) < 1e-12 < float(difference.max())


def test_no_steps_leave_the_waveform_alone():
    x = signal(2, 100)
    assert torch.equal(Purifier(random_denoiser(), n_star=0)(x), x)


@pytest.mark.parametrize("level", [FixedLevel(), SpeechLevel()], ids=str)
def test_without_the_reverse_process_only_noise_is_added(level):
    class Untouchable(torch.nn.Module):
        sample_rate, hop, receptive_field = 16_000, 1, 0

        def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
            raise AssertionError("noise only must not run the network")

    purifier = Purifier(Untouchable(), n_star=5, reverse=False, level=level)
    x = signal(2, 600)
    gain = level.gain(level.energy(x)) if isinstance(level, SpeechLevel) else 1.0
    noise = NOISE.normal((2, 600), draw=0, dtype=torch.float64)
    torch.testing.assert_close(purifier(x, noise=NOISE), x + purifier.sigma * noise / gain)


def test_forward_diffusion_is_equation_9():
    captured = []

    class Spy(GaussianDenoiser):
        def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
            captured.append((x, sigma))
            return super().forward(x, sigma, lengths)

    x = signal(1, 50)
    Purifier(Spy(torch.zeros(1), torch.ones(1)), n_star=3)(x, noise=NOISE)
    alpha_bar = 0.9999 * 0.9998 * 0.9997  # beta_n = 1e-4 n here
    z = NOISE.normal((1, 50), draw=0, dtype=torch.float64)
    torch.testing.assert_close(
        captured[0][0] * alpha_bar**0.5, alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * z
    )
    assert [sigma for _, sigma in captured] == pytest.approx(
        [((1 - a) / a) ** 0.5 for a in (alpha_bar, 0.9999 * 0.9998, 0.9999)]
    )


def test_each_step_takes_a_draw_of_its_own():
    purifier = Purifier(GaussianDenoiser(*torch.tensor([0.0, 0.01], dtype=torch.float64)), n_star=4)
    x = torch.zeros(1, 1, dtype=torch.float64)
    effects = [float(purifier(x, noise=OneDraw(k))) for k in range(5)]
    assert all(effects[:4]) and effects[4] == 0


# --- level -------------------------------------------------------------------------------------------------


def test_the_gain_is_undone_exactly():
    """With a denoiser that returns its input the purifier is noise at 1 / gain and nothing else."""

    class Same(torch.nn.Module):
        sample_rate, hop, receptive_field = 16_000, 1, 0

        def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
            return x

    class Silent(OneDraw):
        pass

    purifier = Purifier(Same(), n_star=1, sampler=OneShot(), level=SpeechLevel())
    x = signal(3, 900) * torch.tensor([[0.01], [1.0], [8.0]])
    torch.testing.assert_close(purifier(x, noise=Silent(None)), x, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loudness", [0.03, 0.1, 0.19])
def test_speech_is_brought_to_the_target(loudness):
    level = SpeechLevel(target=0.1)
    steady = loudness * torch.ones(1, 4 * FRAME, dtype=torch.float64)
    assert float(level.gain(level.energy(steady))) == pytest.approx(0.1 / loudness)
    spoken = torch.nn.functional.pad(steady, (8 * FRAME, 16 * FRAME))
    assert float(level.gain(level.energy(spoken))) == pytest.approx(0.1 / loudness)


@pytest.mark.parametrize(("loudness", "gain"), [(0.0, 4.0), (1e-30, 4.0), (1e-4, 4.0), (1.0, 0.5)])
def test_the_gain_is_bounded(loudness, gain):
    for dtype in (torch.float32, torch.float64):
        level = SpeechLevel()
        assert float(level.gain(level.energy(torch.full((1, 3000), loudness, dtype=dtype)))) == gain


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_energies_of_pieces_add_up(frames):
    level, x = SpeechLevel(), signal(1, sum(frames) * FRAME)
    pieces = x.split([n * FRAME for n in frames], dim=1)
    torch.testing.assert_close(sum(level.energy(piece) for piece in pieces), level.energy(x))


def test_the_gain_is_differentiable():
    level = SpeechLevel()
    x = (0.5 * signal(2, 1200)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: level.gain(level.energy(y)), x, fast_mode=True)
    silence = torch.zeros(1, 600, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(level.gain(level.energy(silence)).sum(), silence)
    assert bool(gradient.isfinite().all())


# --- as a module -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(300,), (2, 300), (2, 3, 300), (1, 1)])
def test_any_leading_shape(shape):
    purifier, x = (
        Purifier(random_denoiser()),
        signal(6, 300).flatten()[: torch.Size(shape).numel()].view(shape),
    )
    out = purifier(x, noise=NOISE)
    assert out.shape == x.shape
    torch.testing.assert_close(out.reshape(-1, shape[-1]), purifier(x.reshape(-1, shape[-1]), noise=NOISE))


@pytest.mark.parametrize("bad", [torch.zeros(2, 0), torch.zeros(4, dtype=torch.int16), torch.tensor(0.0)])
def test_bad_waveforms_are_refused(bad):
    with pytest.raises(InputError, match="floating-point waveform"):
        Purifier(random_denoiser())(bad)


@pytest.mark.parametrize("n_star", [-1, 201, float("nan")])
def test_n_star_must_lie_in_the_schedule(n_star):
    with pytest.raises(InputError, match="n_star must lie between 0 and 200"):
        Purifier(random_denoiser(), n_star=n_star)


def test_a_wrong_number_of_lengths_is_refused():
    with pytest.raises(InputError, match="3 lengths were given for 2 waveforms"):
        Purifier(random_denoiser())(signal(2, 100), lengths=torch.tensor([1, 2, 3]))


def test_deep_copies_and_state_dicts_carry_everything():
    one = Purifier(random_denoiser(0), n_star=3, level=SpeechLevel())
    two = Purifier(random_denoiser(1), n_star=3, level=SpeechLevel())
    x = signal(1, 500)
    expected = one(x, noise=NOISE)
    assert not torch.equal(two(x, noise=NOISE), expected)
    two.load_state_dict(one.state_dict())
    assert torch.equal(two(x, noise=NOISE), expected)
    assert torch.equal(copy.deepcopy(one)(x, noise=NOISE), expected)


def test_double_precision_sees_the_same_noise():
    single = Purifier(random_denoiser().float(), n_star=3)
    out = single(signal(1, 500).float(), noise=NOISE)
    double = copy.deepcopy(single).to(torch.float64)(signal(1, 500), noise=NOISE)
    assert (out.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(out.double(), double, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_waveforms_are_purified_in_single(dtype):
    purifier = Purifier(random_denoiser().float(), n_star=3)
    x = signal(2, 500).to(dtype)
    out = purifier(x, noise=NOISE)
    assert out.dtype == dtype
    assert torch.equal(out, purifier(x.float(), noise=NOISE).to(dtype))


def test_fresh_noise_by_default():
    purifier, x = Purifier(random_denoiser()), signal(1, 500)
    assert not torch.equal(purifier(x), purifier(x))


def test_replace_shares_the_network_and_changes_the_rest():
    purifier = Purifier(random_denoiser(), n_star=3, level=SpeechLevel()).eval()
    twin = purifier.replace(n_star=1, sampler=ReverseSde())
    assert twin.denoiser is purifier.denoiser and twin.level == SpeechLevel() and not twin.training
    assert (len(twin.steps), len(purifier.steps)) == (1, 3)
    with pytest.raises(TypeError, match="no setting nstar"):
        purifier.replace(nstar=1)


def test_a_ddpm_network_is_asked_at_its_own_index_and_scale():
    asked = []

    class Eps(torch.nn.Module):
        receptive_field = 5

        def forward(self, x: Tensor, index: Tensor, lengths: Tensor | None = None) -> Tensor:
            asked.append((x, index))
            return 0.5 * x

    schedule = NoiseSchedule.linear()
    denoiser = EpsDenoiser(Eps(), schedule)
    x = signal(2, 10)
    out = denoiser(x, torch.tensor([schedule.sigma(3), schedule.sigma(7.25)], dtype=torch.float64))
    alpha_bar = torch.tensor([[schedule.alpha_bar(3)], [schedule.alpha_bar(7.25)]], dtype=torch.float64)
    assert asked[0][1].tolist() == pytest.approx([2.0, 6.25])
    noisy = alpha_bar.sqrt() * x
    torch.testing.assert_close(asked[0][0], noisy)
    # x0 = (x_n - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)
    torch.testing.assert_close(out, (noisy - (1 - alpha_bar).sqrt() * 0.5 * noisy) / alpha_bar.sqrt())
    denoiser(x, 1e-4)
    assert asked[1][1].tolist() == [0.0, 0.0]
    assert denoiser.receptive_field == 5


def test_settings_changed_later_take_effect_as_a_whole():
    purifier = Purifier(random_denoiser(), n_star=3)
    wave = signal(1, 600)
    purifier.n_star = 5
    expected = Purifier(purifier.denoiser, n_star=5)(wave, noise=NOISE)
    torch.testing.assert_close(purifier(wave, noise=NOISE), expected, rtol=0, atol=0)


def test_a_sampler_that_cannot_do_fractions_says_so():
    with pytest.raises(InputError, match="whole number of steps"):
        Purifier(random_denoiser(), n_star=2.5, sampler=ReverseSde())
