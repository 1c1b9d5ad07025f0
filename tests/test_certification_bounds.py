"""Confidence bounds, looks and smoothing laws, against SciPy, simulation and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from audiopure import InputError
from audiopure.certification.bounds import Sums, clopper_pearson_upper, mean_lower, mean_upper
from audiopure.certification.laws import Gaussian, Laplace, Response, Shaped
from audiopure.certification.looks import Looks
from audiopure.metrics import clopper_pearson_lower


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.05, 0.01, 0.001]))
def test_the_upper_bound_of_a_proportion_is_scipys(n: int, data: st.DataObject, alpha: float) -> None:
    k = data.draw(st.integers(0, n))
    expected = 1.0 if k == n else stats.beta.ppf(1 - alpha, k + 1, n - k)
    assert clopper_pearson_upper(k, n, alpha) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", ["hoeffding", "bernstein"])
@pytest.mark.parametrize("law", [stats.beta(0.5, 0.5), stats.beta(20, 2), stats.bernoulli(0.02)])
def test_bounds_of_a_mean_fail_no_more_often_than_they_may(method: str, law: stats.rv_continuous) -> None:
    values = np.asarray(law.rvs(size=(2000, 200), random_state=1), dtype=float)
    sums = [Sums(200, float(row.sum()), float((row**2).sum())) for row in values]
    lows = np.array([mean_lower(s, 0.05, method) for s in sums])  # type: ignore[arg-type]
    highs = np.array([mean_upper(s, 0.05, method) for s in sums])  # type: ignore[arg-type]
    # a count of at most 2000 at 5 %, with a margin that a right bound breaks once in a million
    most = stats.binom(2000, 0.05).ppf(1 - 1e-6)
    assert (lows > law.mean()).sum() <= most and (highs < law.mean()).sum() <= most
    assert (lows <= values.mean(1)).all() and (highs >= values.mean(1)).all()


def test_bernstein_is_the_tighter_one_for_values_that_hardly_vary() -> None:
    steady = Sums(1000, 900.0, 810.1)
    assert mean_lower(steady, 0.001, "bernstein") > mean_lower(steady, 0.001, "hoeffding")


def test_sums_add_up_and_mirror() -> None:
    values = np.random.default_rng(0).random(50)
    parts = [Sums(25, float(v.sum()), float((v**2).sum())) for v in np.split(values, 2)]
    whole = parts[0] + parts[1]
    assert whole.mean == pytest.approx(values.mean()) and whole.variance == pytest.approx(values.var(ddof=1))
    assert whole.mirrored().mean == pytest.approx(1 - whole.mean)
    assert whole.mirrored().variance == pytest.approx(whole.variance)


def test_a_bound_needs_values_and_a_method() -> None:
    with pytest.raises(InputError, match="two values"):
        mean_lower(Sums(1, 1.0, 1.0), 0.001)
    with pytest.raises(InputError, match="hoeffding, bernstein"):
        mean_lower(Sums(10, 1.0, 1.0), 0.001, "chebyshev")  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("share", [0.51, 0.8, 0.97, 0.9995])
def test_stopping_early_keeps_the_confidence(alpha: float, share: float) -> None:
    """10,000 runs that stop whenever is worst: some bound is above the truth less often than alpha."""
    looks, runs = Looks.growing(2700, alpha), 10_000
    rng = np.random.default_rng(int(1000 * share + 1e4 * alpha))
    steps = np.diff((0, *looks.ends))
    seen = np.cumsum(np.stack([rng.binomial(n, share, runs) for n in steps], axis=1), axis=1)
    # the best of all bounds so far only grows, so that the last is the worst
    wrong = sum(looks.lower(row) > share for row in seen.tolist())
    assert wrong < alpha * runs


def test_a_single_look_is_clopper_pearsons() -> None:
    assert Looks.single(1000, 0.001).lower([993]) == clopper_pearson_lower(993, 1000, 0.001)


def test_looks_grow_to_the_last_draw() -> None:
    ends = Looks.growing(10_000, 0.001).ends
    assert ends[-1] == 10_000 and ends == tuple(sorted(set(ends))) and all(end % 100 == 0 for end in ends)
    assert Looks.growing(100, 0.001).ends == (100,)
    looks = Looks.growing(10_000, 0.001)
    assert sum(looks.shares) == pytest.approx(0.001, rel=1e-12) and len(looks.shares) == len(ends) > 3
    # who is right in every draw loses little by having been looked at before
    single = stats.norm.ppf(clopper_pearson_lower(10_000, 10_000, 0.001))
    assert single - 0.005 < stats.norm.ppf(looks.lower(looks.ends)) < single
    with pytest.raises(InputError, match="growing"):
        Looks((200, 100), 0.001)
    with pytest.raises(InputError, match="alpha"):
        Looks((100,), 0.0)


@given(st.floats(0.501, 0.999999), st.floats(0.001, 10))
def test_the_gaussian_radius_is_a_half_spaces_margin(p: float, sigma: float) -> None:
    # f = 1 left of a border at distance m: p = Phi(m / sigma), and the answer changes exactly at m
    margin = sigma * float(stats.norm.ppf(p))
    assert Gaussian(sigma).radius(p) == pytest.approx(margin, rel=1e-9)


def test_the_gaussian_radius_of_two_shares_is_the_worst_slabs() -> None:
    """Cohen's worst case: both labels are half-spaces across the same direction; they meet at the radius."""
    p, q, sigma = 0.6, 0.1, 0.7
    top, second = sigma * stats.norm.ppf(p), sigma * stats.norm.ppf(1 - q)
    radius = Gaussian(sigma).radius(p, q)
    shares = stats.norm.cdf((top - radius) / sigma), stats.norm.sf((second - radius) / sigma)
    assert shares[0] == pytest.approx(shares[1], abs=1e-12) and radius > Gaussian(sigma).radius(p)


@given(st.floats(0.501, 0.999999), st.floats(0.001, 10))
def test_the_laplace_radius_is_a_half_lines_margin(p: float, scale: float) -> None:
    margin = float(stats.laplace.ppf(p, scale=scale))
    assert Laplace(scale).radius(p) == pytest.approx(margin, rel=1e-6)


@pytest.mark.parametrize("q", [1e-6, 0.01, 0.1, 0.2, 0.3, 0.4, 0.49])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.45, 0.51, 0.6, 0.9, 0.999])
def test_the_laplace_radius_of_two_shares_is_below_the_worst_half_lines(p: float, q: float) -> None:
    """In one dimension the likelihood ratio grows along the line: the worst labels are its two ends."""
    scale, q = 0.7, min(q, 1 - p)
    radius = Laplace(scale).radius(p, q)
    if p <= q:
        assert radius == 0
        return
    law = stats.laplace(scale=scale)
    top, second = law.ppf(p), law.ppf(1 - q)

    def lead(shift: float) -> float:
        return law.cdf(top - shift) - law.sf(second - shift)

    exact = (top + second) / 2
    assert lead(exact) == pytest.approx(0, abs=1e-12)
    assert 0 < radius <= exact * (1 + 1e-9) and lead(radius * (1 - 1e-9)) >= 0
    if q == 1 - p or p <= 0.5 <= law.cdf(second - exact):
        assert radius == pytest.approx(exact, rel=1e-9)  # nothing better follows from the shares
    if p > 0.5:
        assert radius >= Laplace(scale).radius(p) - 1e-12
    # the worst labels by brute force over sets of equally likely cells, ordered by their likelihood ratio
    cells = law.ppf((np.arange(20_000) + 0.5) / 20_000)
    moved = np.sort(np.exp((np.abs(cells) - np.abs(cells - 0.99 * radius)) / scale)) / 20_000
    low, high = int(np.ceil(p * 20_000)), int(q * 20_000)
    assert moved[:low].sum() > moved[len(moved) - high :].sum() - 1e-4


def test_laplace_noise_has_its_law() -> None:
    noise = Laplace(0.3).noise(torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    assert stats.kstest(noise.double().numpy(), stats.laplace(scale=0.3).cdf).pvalue > 1e-3
    assert float(noise.std()) == pytest.approx(Laplace(0.3).sigma, rel=0.02)
    assert torch.isfinite(Laplace(1.0).noise(torch.tensor([0.0, 12.0, -12.0]))).all()


@pytest.mark.parametrize("law", [Gaussian(0.5), Laplace(0.5)])
def test_no_radius_without_a_majority_and_none_beyond_reason(law: Gaussian | Laplace) -> None:
    assert law.radius(0.5) == law.radius(0.2) == 0.0
    assert (
        math.isinf(law.radius(1.0)) and math.isinf(law.radius(1.0, 0.0)) and math.isinf(law.radius(0.3, 0.0))
    )
    assert law.radius(0.3, 0.3) == law.radius(0.3, 0.4) == 0.0 and law.radius(0.8, 0.9) == law.radius(0.8)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="positive"):
            type(law)(scale)


def test_radii_that_follow_in_other_norms_hold_for_the_worst_change() -> None:
    samples, generator = 64, torch.Generator().manual_seed(0)
    delta = torch.randn(1000, samples, generator=generator, dtype=torch.float64)
    delta[0], delta[1] = 1.0, torch.eye(samples)[0]  # the worst for L-infinity and for L1
    for law, norm in ((Gaussian(0.5), 2.0), (Laplace(0.5), 1.0)):
        radius = law.radius(0.9)
        for name, other in law.implied(radius, samples).items():
            order = {"L∞": math.inf, "L1": 1.0, "L2": 2.0}[name]
            scaled = delta * other / delta.norm(p=order, dim=1, keepdim=True)
            assert float(scaled.norm(p=norm, dim=1).max()) <= radius * (1 + 1e-9)


def test_shaped_noise_certifies_its_ellipsoid() -> None:
    samples = 128
    law = Shaped(0.3, lambda count: 0.2 + np.hanning(count // 2 + 1))
    white = torch.randn(20_000, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = law.noise(white)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    torch.testing.assert_close(law.inverse(noise), 0.3 * white)
    # <w, x> + b > 0 has the margin b / |H w| in the norm |H^-1 delta|, and p = Phi(margin / sigma)
    w = torch.randn(samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bias = 1.5 * float(law.noise(w).norm())
    share = float((noise @ w + bias > 0).double().mean())
    assert law.radius(share) == pytest.approx(1.5 * 0.3, rel=0.05)
    worst = law.noise(law.noise(w))  # H H^T w, towards the border
    worst = -worst * (1.5 * 0.3 / law.inverse(worst).norm())
    assert float(worst @ w) + bias == pytest.approx(0, abs=1e-9)


@given(
    st.integers(2, 300),
    st.lists(
        st.tuples(st.integers(0, 8000), st.floats(-50, 50, allow_subnormal=False)),
        min_size=2,
        max_size=6,
        unique_by=lambda point: point[0],
    ),
)
def test_a_filter_leaves_noise_its_power_and_follows_its_shape(
    samples: int, points: list[tuple[int, float]]
) -> None:
    text = ",".join(f"{hz!r}:{db!r}" for hz, db in sorted(points))
    gains = Shaped(1.0, Response.of(text, 16_000)).gains(samples)
    both = np.abs(np.fft.fft(np.fft.irfft(gains, samples)))  # as the filter's impulse response has it
    assert (both**2).mean() == pytest.approx(1)
    bins = np.fft.rfftfreq(samples, 1 / 16_000)
    wanted = np.interp(bins, *np.transpose(sorted(points)))
    np.testing.assert_allclose(np.diff(20 * np.log10(gains)), np.diff(wanted), atol=1e-6)


def test_what_is_within_the_ellipsoid_is_as_large_as_is_said() -> None:
    law = Shaped(0.3, Response.of("0:0,2000:0,4000:30,8000:30", 16_000))
    t = torch.arange(1600, dtype=torch.float64) / 16_000
    for hz, limit in ((6000, law.largest(0.5, 1600)), (500, law.implied(0.5, 1600)["L2"])):
        tone = torch.sin(2 * math.pi * hz * t)
        assert law.size(limit * tone / tone.norm()) == pytest.approx(0.5)
    for plain, order in ((Gaussian(0.3), 2.0), (Laplace(0.3), 1.0)):
        change = torch.randn(1600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert plain.size(change) == pytest.approx(float(change.norm(p=order)))
        spike = torch.zeros(1600, dtype=torch.float64)
        spike[3] = plain.largest(0.5, 1600)
        assert plain.size(spike) == pytest.approx(0.5) and plain.band(0.5, 0, 1, 1600, 1) > 0


def test_filters_wider_than_the_noise_can_be_drawn_are_refused() -> None:
    for points in ("0:0,8000:-101", "0:-4000,8000:4000"):
        with pytest.raises(InputError, match="spans at most 100 dB"):
            Response.of(points, 16_000)
    with pytest.raises(InputError, match="span at most 100 dB"):
        Shaped(1.0, lambda samples: np.geomspace(1, 1e6, samples // 2 + 1)).gains(64)
    for shift in (-4000, 4000):  # which scaling takes back
        law = Shaped(1.0, Response.of(f"0:{shift},8000:{shift + 100}", 16_000))
        white = torch.randn(500, 1600, generator=torch.Generator().manual_seed(0))
        ratio = torch.fft.rfft(law.noise(white)).abs().square().mean(0).double().sqrt() / 40
        np.testing.assert_allclose(ratio.numpy(), law.gains(1600), rtol=0.25)


@pytest.mark.parametrize(
    "text", ["", "0:1", "0:1,0:2", "5:1,1:2", "a:1,2:2", "0:1:2,3:4", "0:nan,1:2", "0,1"]
)
def test_a_filter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="shape"):
        Response.of(text, 16_000)


def test_a_bands_radius_holds_for_changes_within_it() -> None:
    samples, rate = 160, 16_000
    law = Shaped(1.0, lambda count: np.linspace(1.0, 3.0, count // 2 + 1))
    t = torch.arange(samples, dtype=torch.float64) / rate
    tone = torch.sin(2 * math.pi * 4000 * t)
    limit = law.band(0.5, 3900, 4100, samples, rate)
    assert float(law.inverse(tone * limit / tone.norm()).norm()) <= 0.5 * (1 + 1e-9)
    gains = law.gains(samples)
    assert gains[-1] == pytest.approx(3 * gains[0])
    assert law.implied(0.5, samples)["L2"] == pytest.approx(0.5 * gains[0])
    with pytest.raises(InputError, match="no frequency"):
        law.band(0.5, 10, 20, samples, rate)
    with pytest.raises(InputError, match="81 positive gains"):
        Shaped(1.0, lambda count: np.zeros(count // 2 + 1)).gains(samples)
