"""Whether a run was long enough: a baseline counts only once its validation has flattened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LAST = 0.4  # share of a run that must have brought nothing more; a tenth of what a cosine spends falls to it
LITTLE = 0.02  # a change of the loss there that is nothing: in nats, or of the lowest loss


def flattened(log: Sequence[Mapping[str, float]], *, nats: bool = True) -> bool:
    """Whether the last two fifths of a run have brought nothing more.

    That is so if the lowest validation loss in them lies below the lowest before by less than 0.02 nat or, of
    a loss that is not in nats, by less than 2 % of it. A loss that falls in proportion to the learning rate
    spent has not flattened, although the cosine makes its curve look so at the end: where it falls by more
    than a fifth of a nat in all, its last two fifths tell.

    Args:
        log: validations in order, each with "step" and "validation_loss".
        nats: whether the loss is a cross-entropy or a logarithm, whose zero means nothing.
    """
    begins = (1 - LAST) * log[-1]["step"]
    before = [line["validation_loss"] for line in log if line["step"] <= begins]
    if not before:
        return False
    lowest = min(line["validation_loss"] for line in log)
    return min(before) - lowest < LITTLE * (1 if nats else abs(lowest))
