"""Noise: against a separate Philox, against the normal law, and for every invariance it promises."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from audiopure.errors import InputError
from audiopure.noise import SecretNoise, SeededNoise, system_noise

MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 in plain integers, from Salmon et al. 2011 (section 3.3 and table 2)."""
    x, k = list(counter), list(key)
    for _ in range(10):
        high_0, low_0 = divmod(0xD2E7470EE14C6C93 * x[0], 2**64)
        high_1, low_1 = divmod(0xCA5A826395121157 * x[2], 2**64)
        x = [high_1 ^ x[1] ^ k[0], low_1, high_0 ^ x[3] ^ k[1], low_0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return x


def normal_at(seed: int, item: int, draw: int, position: int) -> float:
    # numpy's generator advances its counter before it draws
    words = philox([position // 4 + 1, 0, draw, 0], [seed, item])
    uniform = [((word >> 11) + 0.5) / 2**53 for word in words]
    pair = position % 4 // 2 * 2
    radius = math.sqrt(-2 * math.log(uniform[pair]))
    wave = math.cos if position % 2 == 0 else math.sin
    return radius * wave(2 * math.pi * uniform[pair + 1])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ([MASK] * 4, [MASK] * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    ],
)
def test_the_reference_passes_the_published_test_vectors(counter, key, expected):
    assert philox(counter, key) == [int(word, 16) for word in expected.split()]


@pytest.mark.parametrize(
    ("seed", "item", "draw", "start"), [(0, 0, 0, 0), (7, 3, 2, 5), (2**63 + 1, 9, 11, 10**9)]
)
def test_values_are_philox_and_box_muller(seed, item, draw, start):
    got = SeededNoise(seed, (item,)).normal((1, 11), draw=draw, start=start, dtype=torch.float64)
    expected = [normal_at(seed, item, draw, start + i) for i in range(11)]
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-12, atol=1e-14)


def test_values_are_numpys_own_stream():
    words = np.random.Philox(key=np.array([5, 2], dtype=np.uint64)).random_raw(1000)
    radius = np.sqrt(-2 * np.log(((words[0::2] >> np.uint64(11)) + 0.5) / 2**53))
    angle = 2 * np.pi * ((words[1::2] >> np.uint64(11)) + 0.5) / 2**53
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    got = SeededNoise(5, (2,)).normal((1, 1000), draw=0, dtype=torch.float64)
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 10**7),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    draw=st.integers(0, 20),
    seed=st.integers(0, 2**64 - 1),
)
def test_chunks_of_any_start_and_size_join_to_the_whole(start, sizes, draw, seed):
    source = SeededNoise(seed)
    whole = source.normal((2, sum(sizes)), draw=draw, start=start)
    starts = [start + sum(sizes[:i]) for i in range(len(sizes))]
    parts = [source.normal((2, n), draw=draw, start=s) for s, n in zip(starts, sizes, strict=True)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


@settings(max_examples=30, deadline=None)
@given(items=st.lists(st.integers(0, 2**40), min_size=1, max_size=5, unique=True), seed=st.integers(0, 2**32))
def test_an_item_keeps_its_noise_in_any_batch(items, seed):
    source = SeededNoise(seed)
    batch = source.for_items(items).normal((len(items), 33), draw=1, start=3)
    for row, item in zip(batch, items, strict=True):
        assert torch.equal(source.for_items([item]).normal((1, 33), draw=1, start=3)[0], row)
    assert len({tuple(row.tolist()) for row in batch}) == len(items)


def test_rows_are_named_by_their_index_by_default():
    source = SeededNoise(1)
    assert torch.equal(source.normal((3, 8), draw=0), source.for_items([0, 1, 2]).normal((3, 8), draw=0))


def test_values_are_standard_normal():
    values = SeededNoise(2).normal((4, 50_000), draw=0, dtype=torch.float64).flatten().numpy()
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(stats.kurtosis(values)) < 5 * math.sqrt(24 / values.size)
    assert stats.kstest(values[0::2] ** 2 + values[1::2] ** 2, "chi2", args=(2,)).pvalue > 0.01


def test_draws_items_positions_seeds_and_fresh_sources_are_independent():
    length, source = 100_000, SeededNoise(3)
    rows = [
        *source.normal((2, length), draw=0, dtype=torch.float64),
        *source.normal((2, length), draw=1, dtype=torch.float64),
        source.normal((1, length), draw=0, start=1, dtype=torch.float64)[0],
        *[source.fresh(k).normal((1, length), draw=0, dtype=torch.float64)[0] for k in (0, 1)],
        source.fresh(0).fresh(1).normal((1, length), draw=0, dtype=torch.float64)[0],
        SeededNoise(4).normal((1, length), draw=0, dtype=torch.float64)[0],
    ]
    for transform in (lambda v: v, torch.square):
        correlation = torch.corrcoef(torch.stack([transform(row) for row in rows]))
        off = correlation - torch.eye(len(rows), dtype=torch.float64)
        assert float(off.abs().max()) < 4.5 / math.sqrt(length)


def test_fresh_sources_replay_and_keep_the_items():
    source = SeededNoise(3).for_items([8, 9])
    assert source.fresh(5) == source.fresh(5)
    assert source.fresh(5).items == (8, 9)
    assert source.fresh(5) != source.fresh(6)


def test_float32_values_are_the_float64_values_rounded():
    source = SeededNoise(6)
    double = source.normal((2, 50_000), draw=1, dtype=torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        single = source.normal((2, 50_000), draw=1, dtype=dtype)
        assert single.dtype == dtype
        assert float((single.double() - double).abs().max()) < tolerance


def test_a_secret_seed_is_never_shown():
    source = system_noise()
    assert isinstance(source, SecretNoise)
    with pytest.raises(ValueError) as caught:
        source.for_items([1]).normal((2, 4), draw=0)
    shown = [repr(source), str(source), repr(source.fresh(1)), repr(source.for_items([1])), str(caught.value)]
    shown += [str(vars(source)), str(source.seed), f"{source.seed}"]
    for secret in (int(source.seed), int(source.fresh(1).seed)):
        assert not any(str(secret) in text or f"{secret:x}" in text for text in shown)


def test_a_secret_seed_cannot_be_copied_or_stored():
    source = SecretNoise(2**64 - 5)
    for attempt in (pickle.dumps, copy.deepcopy, copy.copy, dataclasses.asdict, dataclasses.astuple):
        for secret in (source, source.fresh(3), source.for_items([1])):
            with pytest.raises(TypeError, match="secret noise can be neither copied nor stored"):
                attempt(secret)


def test_secret_noise_has_the_values_of_its_seed():
    secret, known = SecretNoise(7).fresh(2).for_items([3]), SeededNoise(7).fresh(2).for_items([3])
    assert torch.equal(secret.normal((1, 9), draw=1), known.normal((1, 9), draw=1))
    assert pickle.loads(pickle.dumps(known)) == copy.deepcopy(known) == known


@pytest.mark.parametrize("kind", [SeededNoise, SecretNoise])
@pytest.mark.parametrize("bad", [-1, 2**64, 1.5, "3", None])
def test_seeds_and_items_out_of_range_are_refused(kind, bad):
    with pytest.raises(InputError, match="a seed must be an integer between 0 and"):
        kind(bad)
    with pytest.raises(InputError, match="an item must be an integer between 0 and"):
        kind(1, (0, bad))
    with pytest.raises(InputError):
        kind(1).for_items([-1])


def test_every_secret_source_is_its_own():
    assert len({system_noise().seed for _ in range(20)}) == 20


def numpy_key() -> np.ndarray:
    return np.array(np.random.get_state(legacy=False)["state"]["key"])  # type: ignore[call-overload]


def test_no_global_random_state_is_used_or_changed():
    torch_state, numpy_state = torch.get_rng_state(), numpy_key()
    torch.manual_seed(0)
    one = SeededNoise(1).normal((1, 9), draw=0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    two = SeededNoise(1).normal((1, 9), draw=0)
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(numpy_key(), numpy_state)
    torch.set_rng_state(torch_state)
