"""Whether a run was long enough: a baseline counts only once its validation has flattened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LAST = 0.4  # share of a run that must have brought nothing more; a tenth of what a cosine spends falls to it
STILL = 0.05  # change of the loss there that is nothing, relative to its spread over the run
NOTHING, MUCH = 0.01, 0.1  # relative to the lowest loss: less is always nothing, more never


def flattened(log: Sequence[Mapping[str, float]], steps: int) -> bool:
    """Whether the last two fifths of a run have brought nothing more.

    That is so if the run ended early (`patience`), or if the lowest validation loss in them lies below the
    lowest before by less than a twentieth of what the loss has ranged over. A loss that falls in proportion
    to the learning rate spent has not flattened, although the cosine makes its curve look so at the end.
    The range says little where a run begins far off, or with weights that are trained already: a hundredth of
    the lowest loss is always little, a tenth of it never.

    Args:
        log: validations in order, each with "step" and "validation_loss".
        steps: that the run was given.
    """
    last = log[-1]
    if last["step"] < steps:
        return True
    begins = (1 - LAST) * last["step"]
    before = [line["validation_loss"] for line in log if line["step"] <= begins]
    losses = [line["validation_loss"] for line in log]
    if not before:
        return False
    lowest = min(losses)
    size = abs(lowest)
    little = min(max(STILL * (max(losses) - lowest), NOTHING * size), MUCH * size)
    return min(before) - lowest < little
