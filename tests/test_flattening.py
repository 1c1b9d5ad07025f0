"""Whether a run was long enough to count."""

from __future__ import annotations

import numpy as np
import pytest

from audiopure.training.config import TrainConfig
from audiopure.training.flattening import flattened
from audiopure.training.loop import schedule


def log(losses: list[float], scores: list[float]) -> list[dict[str, float]]:
    return [
        {"step": 10.0 * (k + 1), "score": score, "validation_loss": loss}
        for k, (loss, score) in enumerate(zip(losses, scores, strict=True))
    ]


FALLING = [10.0 - k for k in range(10)]
RISING = [float(k) for k in range(10)]


@pytest.mark.parametrize(
    ("losses", "scores", "steps", "expected"),
    [
        (FALLING, RISING, 100, False),
        (FALLING, RISING, 200, True),  # it ended early
        (FALLING, [*RISING[:4], 9.0, *RISING[4:9]], 100, False),  # a lucky score changes nothing
        ([3, 2.5, 2.2, 2.1, 2.05, 2.0, 1.99, 1.98, 1.97, 1.96], RISING, 100, True),  # by 0.04 of 1.04
        ([3, 2.5, 2.2, 2.1, 2.05, 2.0, 1.99, 1.98, 1.96, 1.94], RISING, 100, False),  # by 0.06 of 1.06
        (
            [10, 5, 3, 2, 1.5, 1.2, 1.1, 1.0, 0.9, 0.8],
            RISING,
            100,
            False,
        ),  # by 0.4 of 9.2, but a third
        ([2.03, 2.0, 2.02, 2.01, 2.02, 2.01, 2.02, 1.99, 2.0, 2.01], RISING, 100, True),  # noise
        ([-4.9, -5.0, -4.95, -5.01, -4.97, -5.0, -5.0, -5.04, -5.03, -5.02], RISING, 100, True),  # below 0
        ([10, 5, 3, 2, 1.5, 1.2, 0.7, 1.0, 1.0, 1.0], RISING, 100, False),  # it fell, and rose again
        ([10, 5, 3, 2, 1.5, 1.2, 1.3, 1.6, 1.9, 2.6], RISING, 100, True),  # longer would not help
    ],
)
def test_the_last_two_fifths_must_bring_nothing(
    losses: list[float], scores: list[float], steps: int, expected: bool
) -> None:
    assert flattened(log(losses, scores), steps) is expected


@pytest.mark.parametrize("steps", [60, 600, 6000])
def test_a_loss_that_falls_as_the_learning_rate_is_spent_has_not_flattened(steps: int) -> None:
    rates = schedule(TrainConfig(steps=steps, batch=1, learning_rate=1.0, warmup=steps // 10))
    spent, every = np.cumsum([rates(step) for step in range(steps)]), steps // 10
    losses = [float(1 - spent[k - 1] / spent[-1]) for k in range(every, steps + 1, every)]
    found = [
        {"step": float(every * (k + 1)), "score": 0.0, "validation_loss": loss}
        for k, loss in enumerate(losses)
    ]
    assert not flattened(found, steps)


def test_a_single_validation_tells_nothing() -> None:
    assert not flattened(log([1.0], [1.0]), 10)
