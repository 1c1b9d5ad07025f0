"""What an attacker wants of a model's answer, as a loss to climb and as a verdict.

Where a model gives logits or a speaker system gives scores, larger means more of that class or speaker. A
loss is larger the better the attack does; `survived` says whether the system still answers as its owner
wants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from audiopure.errors import InputError


class Criterion(Protocol):
    """A goal. `targeted`: labels are the wanted ones, else the true ones."""

    @property
    def targeted(self) -> bool: ...

    def classes(self, scores: Tensor) -> int:
        """How many labels there are: they lie below it."""
        ...

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Shape: (B, C), (B,) -> (B,)."""
        ...

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Shape: (B, C), (B,) -> (B,) bool."""
        ...


@dataclass(frozen=True)
class _Classes:
    """Answers are classes: the attack is withstood while the label is heard, or the wanted one is not."""

    targeted: bool = False

    def classes(self, scores: Tensor) -> int:
        return scores.shape[1]

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        return (scores.argmax(1) == labels) ^ self.targeted


@dataclass(frozen=True)
class CrossEntropy(_Classes):
    """Cross-entropy of the true label, or its negative of the wanted one."""

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        value = cross_entropy(scores, labels)
        return -value if self.targeted else value


@dataclass(frozen=True)
class Margin(_Classes):
    """Best other logit minus the label's, or the reverse of the wanted one (Carlini & Wagner 2017).

    Positive where the attack succeeds. For scores of enrolled speakers this is FAKEBOB's loss of closed-set
    identification (Chen et al. 2021), negated.
    """

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        value = margin(scores, labels)
        return -value if self.targeted else value


@dataclass(frozen=True)
class Dlr(_Classes):
    """Difference of logits ratio (Croce & Hein 2020): the margin, over the distance of the best to the third.

    Targeted, over the distance of the best to the mean of the third and the fourth. The model needs three
    classes, or four where targeted; InputError otherwise.
    """

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        needed = 4 if self.targeted else 3
        if scores.shape[1] < needed:
            raise InputError(f"the DLR loss needs {needed} classes, the model has {scores.shape[1]}")
        order = scores.sort(dim=1, descending=True).values
        if self.targeted:
            scale = order[:, 0] - (order[:, 2] + order[:, 3]) / 2
            best = scores.gather(1, scores.argmax(1, keepdim=True)).squeeze(1)
            value = scores.gather(1, labels[:, None]).squeeze(1) - best
        else:
            scale = order[:, 0] - order[:, 2]
            value = margin(scores, labels)
        return value / scale.clamp(min=1e-12)


@dataclass(frozen=True)
class Verification:
    """One score decides: accepted at `threshold` or above. Labels: 1 where accepting is right, else 0.

    Targeted, labels are what the attacker wants. FAKEBOB's loss of speaker verification (Chen et al. 2021) is
    threshold - score for an impostor, negated here.
    """

    threshold: float
    targeted: bool = False

    def classes(self, scores: Tensor) -> int:
        if scores.shape[1] != 1:
            raise InputError(f"verification needs one score a clip, got {scores.shape[1]}")
        return 2

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        wants_accepted = labels.bool() ^ (not self.targeted)
        value = scores[:, 0] - self.threshold
        return torch.where(wants_accepted, value, -value)

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        return ((scores[:, 0] >= self.threshold) == labels.bool()) ^ self.targeted


@dataclass(frozen=True)
class OpenSet:
    """The best of C enrolled speakers, if at `threshold` or above, else nobody, who is class C.

    FAKEBOB's losses of open-set identification (Chen et al. 2021), negated: the threshold competes with the
    scores as one more class.
    """

    threshold: float
    targeted: bool = False

    def classes(self, scores: Tensor) -> int:
        return scores.shape[1] + 1

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return Margin(self.targeted).loss(self._with_nobody(scores), labels)

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        return Margin(self.targeted).survived(self._with_nobody(scores), labels)

    def _with_nobody(self, scores: Tensor) -> Tensor:
        return torch.cat([scores, scores.new_full((len(scores), 1), self.threshold)], dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Shape: (B, C), (B,) -> (B,)."""
    own, others = _apart(logits, labels)
    # softmax rounds a confident label's probability to 1 and its gradient to 0; this form keeps it
    return nn.functional.softplus(others.logsumexp(1) - own)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best other logit minus that of the label: positive where the label is not heard.

    Shape: (B, C), (B,) -> (B,).
    """
    own, others = _apart(logits, labels)
    return others.amax(1) - own


def _apart(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own, logits.scatter(1, labels[:, None], -torch.inf)


# a new loss of classes is one class and one line here
CRITERIA: Mapping[str, Callable[[bool], Criterion]] = {"ce": CrossEntropy, "margin": Margin, "dlr": Dlr}


def criterion(loss: str | Criterion, targeted: bool) -> Criterion:
    """The goal that an attack's `loss` and `targeted` name.

    Raises InputError for an unknown name, or if a goal that says otherwise is given with `targeted`.
    """
    if not isinstance(loss, str):
        if targeted and not loss.targeted:
            raise InputError(f"the attack is targeted but its goal {loss} is not")
        return loss
    if loss not in CRITERIA:
        raise InputError(f"there is no loss '{loss}'; there are: {', '.join(CRITERIA)}")
    return CRITERIA[loss](targeted)
