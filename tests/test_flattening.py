"""Whether a run was long enough to count."""

from __future__ import annotations

import pytest

from audiopure.training.flattening import flattened


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
        (FALLING, [*RISING[:7], 9.0, 8.0, 8.5], 100, True),  # the best at step 80 of 100
        (FALLING, [*RISING[:8], 9.0, 8.5], 100, False),  # at step 90
        ([10, 5, 3, 2, 1.5, 1.2, 1.1, 1.0, 0.9, 0.6], RISING, 100, True),  # by 0.4 of 9.4
        ([10, 5, 3, 2, 1.5, 1.2, 1.1, 1.0, 0.9, 0.5], RISING, 100, False),  # by 0.5 of 9.5
        ([10, 5, 3, 2, 1.5, 1.2, 1.1, 1.0, 0.9, 1.6], RISING, 100, False),  # it rose
    ],
)
def test_the_last_fifth_must_bring_nothing(
    losses: list[float], scores: list[float], steps: int, expected: bool
) -> None:
    assert flattened(log(losses, scores), steps) is expected


def test_a_single_validation_tells_nothing() -> None:
    assert not flattened(log([1.0], [1.0]), 10)
