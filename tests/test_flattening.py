"""Whether a run was long enough to count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from audiopure.training.config import TrainConfig
from audiopure.training.flattening import flattened
from audiopure.training.loop import schedule


def log(losses: Sequence[float]) -> list[dict[str, float]]:
    return [{"step": 10.0 * (k + 1), "validation_loss": loss} for k, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "nats", "relative"),
    [
        ([10.0 - k for k in range(10)], False, False),
        ([3, 2.5, 2.2, 2.1, 2.05, 2.0, 1.99, 1.99, 1.985, 1.985], True, True),  # by 0.015
        ([3, 2.5, 2.2, 2.1, 2.05, 2.0, 1.99, 1.98, 1.97, 1.97], False, True),  # by 0.03, of 1.97
        ([0.3, 0.25, 0.22, 0.21, 0.2, 0.195, 0.19, 0.185, 0.185, 0.185], True, False),  # by 0.01, of 0.185
        ([2.03, 2.0, 2.02, 2.01, 2.02, 2.01, 2.02, 1.99, 2.0, 2.01], True, True),  # noise
        ([10, 5, 3, 2, 1.5, 1.2, 0.7, 1.0, 1.0, 1.0], False, False),  # it fell, and rose again
        ([10, 5, 3, 2, 1.5, 1.2, 1.3, 1.6, 1.9, 2.6], True, True),  # longer would not help
    ],
)
def test_the_last_two_fifths_must_bring_nothing(losses: list[float], nats: bool, relative: bool) -> None:
    assert flattened(log(losses), nats=True) is nats
    assert flattened(log(losses), nats=False) is relative
    assert flattened(log([30 * loss for loss in losses]), nats=False) is relative
    for shift in (-5.0, -1.97, 0.04):  # nats have no zero
        assert flattened(log([loss + shift for loss in losses]), nats=True) is nats


@pytest.mark.parametrize("steps", [60, 600, 6000])
@pytest.mark.parametrize(("fall", "expected"), [(1.0, False), (0.25, False), (0.1, True)])
def test_a_loss_that_falls_as_the_learning_rate_is_spent_has_not_flattened(
    fall: float, expected: bool, steps: int
) -> None:
    rates = schedule(TrainConfig(steps=steps, batch=1, learning_rate=1.0, warmup=steps // 10))
    spent = np.cumsum([rates(step) for step in range(steps)])[steps // 10 - 1 :: steps // 10]
    found = flattened(log([1 - fall * float(part / spent[-1]) for part in spent]))
    assert found is expected


def test_a_single_validation_tells_nothing() -> None:
    assert not flattened(log([1.0]))
