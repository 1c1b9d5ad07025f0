"""The draws of a certificate: seeds, batches, interruptions, and too little memory."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from certification_helpers import SIGMA, Coin, at_margin, half_space
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from audiopure import InputError
from audiopure.certification.draws import CHUNK, CHUNKS, Draws, Purpose
from audiopure.certification.laws import Gaussian
from audiopure.certification.procedures import votes
from audiopure.certification.smoothing import Rows, Sampler

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def test_selection_and_estimate_share_no_draw() -> None:
    shape = (16,)
    select, estimate = (Draws(0, 7, p).normal(0, 100, shape) for p in ("select", "estimate"))
    assert not torch.isclose(select, estimate).any()
    other = Draws(0, 8, "estimate").normal(0, 100, shape)
    assert not torch.isclose(other, estimate).any()
    assert torch.equal(estimate, Draws(0, 7, "estimate").normal(0, 100, shape))
    assert torch.equal(
        Draws(0, 7, "estimate").normal(100, 30, shape), Draws(0, 7, "estimate").normal(0, 130, shape)[100:]
    )


def test_draws_are_standard_normal_and_begin_with_a_chunk() -> None:
    values = Draws(1, 1, "estimate").normal(0, 1000, (50,)).flatten().double().numpy()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    with pytest.raises(InputError, match=str(CHUNK)):
        Draws(1, 1, "estimate").normal(50, 10, (4,))


@pytest.mark.parametrize("rows", [1, 7, 64, 100, 250, 1000])
def test_batches_and_interruptions_change_no_vote(rows: int) -> None:
    model = half_space(8)
    for base in (model, Coin()):
        sampler = Sampler(base, Gaussian(SIGMA), at_margin(model, 0.1), seed=5, item=2)
        whole = sampler.sum("estimate", 0, 750, votes)
        other = Sampler(base, Gaussian(SIGMA), at_margin(model, 0.1), seed=5, item=2, rows=Rows(rows))
        parts = other.sum("estimate", 0, 300, votes) + other.sum("estimate", 300, 750, votes)
        assert np.array_equal(whole, parts)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sets(st.integers(0, CHUNKS - 1), max_size=50))
def test_chunks_of_a_clip_share_no_seed(seed: int, item: int, some: set[int]) -> None:
    numbers = some | {0, CHUNKS - 1}
    seeds = {Draws(seed, item, p).chunk_seed(k) % 2**32 for p in PURPOSES for k in numbers}
    assert len(seeds) == len(PURPOSES) * len(numbers)


def test_many_chunks_of_a_clip_share_no_seed_where_hashes_of_32_bits_would() -> None:
    seeds = {Draws(0, 7, p).chunk_seed(k) % 2**32 for p in PURPOSES for k in range(100_000)}
    assert len(seeds) == len(PURPOSES) * 100_000


def test_seeds_of_other_devices_keep_their_length_and_chunks_have_an_end() -> None:
    seeds = {Draws(0, 7, p).chunk_seed(k, "cuda") for p in PURPOSES for k in range(100)}
    assert len(seeds) == 400 and 2**32 < max(seeds) < 2**63
    assert Draws(0, 7, "estimate").chunk_seed(0) != Draws(1, 7, "estimate").chunk_seed(0)
    with pytest.raises(InputError, match="chunks"):
        Draws(0, 7, "estimate").normal(CHUNKS * CHUNK, 1, (1,))


def test_consecutive_seeds_give_uncorrelated_noise() -> None:
    """Correlations of whole chunks, also shifted against one another: normal, of variance 1 / length."""
    length = 20_000
    chunks = Draws(3, 1, "estimate").normal(0, 40 * CHUNK, (length // CHUNK,)).double().reshape(40, -1)
    found = [
        float(a[: length - shift] @ b[shift:]) / np.sqrt(length - shift)
        for a, b in combinations(chunks, 2)
        for shift in (0, 1, 2, 624)
    ]
    assert np.abs(found).max() < 5 and stats.kstest(found, "norm").pvalue > 1e-3
    # and value by value: what the generators begin with moves with the seed by no rule
    firsts = Draws(3, 1, "estimate").normal(0, 400 * CHUNK, (1,)).double().numpy().reshape(400, CHUNK)
    assert stats.kstest(firsts[:, 0], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(firsts[1:, 0], firsts[:-1, 0])[0, 1]) < 5 / np.sqrt(399)


class Cramped(nn.Module):
    """Has memory for so many rows, as a GPU would say; `later`: for so many after its first batch."""

    def __init__(self, base: nn.Module, rows: int, later: int | None = None):
        super().__init__()
        self.base, self.rows, self.later = base, rows, later
        self.asked: list[int] = []

    def forward(self, noisy: Tensor) -> Tensor:
        self.asked.append(len(noisy))
        if len(noisy) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.later is not None:
            self.rows = self.later
        return self.base(noisy)


@pytest.mark.parametrize(
    "start, fits, later, left", [(1000, 130, None, 125), (64, 20, None, 16), (64, 64, 7, 4)]
)
def test_batches_shrink_to_the_memory_and_change_no_vote(
    start: int, fits: int, later: int | None, left: int
) -> None:
    model, law, rows = half_space(8), Gaussian(SIGMA), Rows(start)
    x = at_margin(model, 0.1)
    whole = Sampler(model, law, x, 5, 2).sum("estimate", 0, 750, votes)
    base = Cramped(model, fits, later)
    assert np.array_equal(Sampler(base, law, x, 5, 2, rows).sum("estimate", 0, 750, votes), whole)
    assert rows.count == left
    base.asked.clear()
    other = Sampler(base, law, -x, 5, 3, rows).sum("estimate", 0, 750, votes)
    assert other.sum() == 750 and max(base.asked) <= left  # the next clip tries no more than fitted this one


def test_too_little_memory_for_one_row_is_one_sentence() -> None:
    sampler = Sampler(Cramped(half_space(8), 0), Gaussian(SIGMA), torch.zeros(8), 0, 0)
    with pytest.raises(InputError, match="does not fit the device's memory"):
        sampler.sum("estimate", 0, 100, votes)
    with pytest.raises(InputError, match="no draws"):
        sampler.sum("estimate", 100, 100, votes)
