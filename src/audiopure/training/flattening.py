"""Whether a run was long enough: a baseline counts only once its validation has flattened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LAST = 0.2  # share of a run that must have brought nothing more
STILL = 0.05  # change of the loss there that is nothing, relative to its spread over the run


def flattened(log: Sequence[Mapping[str, float]], steps: int) -> bool:
    """Whether the last fifth of a run has brought nothing more.

    That is so if the run ended early (`patience`), if its best validation came before that fifth, or if the
    validation loss changed in it by less than a twentieth of what it has ranged over.

    Args:
        log: validations in order, each with "step", "score" and "validation_loss".
        steps: that the run was given.
    """
    last = log[-1]
    if last["step"] < steps:
        return True
    begins = (1 - LAST) * last["step"]
    best = max(log, key=lambda line: line["score"])
    if best["step"] <= begins:
        return True
    before = [line["validation_loss"] for line in log if line["step"] <= begins]
    losses = [line["validation_loss"] for line in log]
    return bool(before) and abs(losses[-1] - before[-1]) < STILL * (max(losses) - min(losses))
