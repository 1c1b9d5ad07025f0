"""FAKEBOB's estimate of a speaker system's threshold, which the system keeps to itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audiopure.attacks.fakebob import Fakebob
from audiopure.attacks.fakebob_loop import Descent
from audiopure.attacks.objective import Objective
from audiopure.errors import InputError
from audiopure.noise import SeededNoise


@dataclass(frozen=True)
class _TopScore:
    """The highest score, whoever's it is."""

    targeted: bool = False

    def classes(self, scores: Tensor) -> int:
        return 1

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return scores.amax(1)

    def survived(self, scores: Tensor, labels: Tensor) -> Tensor:
        return torch.ones_like(labels, dtype=torch.bool)


def estimate_threshold(
    model: nn.Module,
    accepts: Callable[[Tensor], Tensor],
    impostors: Tensor,
    *,
    noise: SeededNoise,
    attack: Fakebob | None = None,
    step: float = 0.1,
) -> Tensor:
    """The score at which a verification or open-set system accepts an impostor (Chen et al. 2021, alg. 1).

    FAKEBOB raises the highest score until the system accepts: then the score is at the threshold or slightly
    above, never below. Whenever it has risen by `step` of the first score's size, the rate starts afresh.
    Use the mean over impostors.

    Args:
        model: (B, T) to scores (B, C) of the C enrolled speakers, one for verification.
        accepts: whether the system accepts each of some clips, (k, T) -> (k,) bool; the only thing about the
            threshold that it gives away.
        impostors: (B, T) in [-1, 1], whom the system rejects, of equal lengths.
        attack: its settings; `steps` over all rounds is where the search ends. By default `Fakebob()`.

    Returns:
        (B,), nan for a clip that is accepted as it is, or never within the steps.

    Raises:
        InputError: for a step that is not positive, or clips that do not fit.
    """
    attack = attack or Fakebob()
    if not step > 0:
        raise InputError(f"the step to a higher threshold must be positive, got {step}")
    labels = torch.zeros(len(impostors), dtype=torch.long, device=impostors.device)
    objective = Objective(model, labels, _TopScore(), max_rows=attack.max_rows)
    descent = Descent(attack, objective, attack._ball(impostors, labels, None), noise, attack.eot)
    threshold = torch.full_like(descent.best_cost, torch.nan)
    supposed, rise = torch.full_like(threshold, -torch.inf), torch.zeros_like(threshold)
    for number in range(attack.steps + 1):
        rows = descent.climb.active
        heard, source = descent.x[rows], descent.source(number).fresh(0)
        score = objective.rows(rows).value(heard, source, attack.eot)
        accepted = accepts(heard).to(torch.bool)
        if number == 0:
            rise = step * score.abs()
        else:
            threshold[rows[accepted]] = score[accepted]
        passed = score >= supposed[rows]
        supposed[rows[passed]] = score[passed] + rise[rows[passed]]
        descent.schedule.restart(rows[passed], attack.rate)
        descent.climb.active = rows[~accepted]
        if not len(descent.climb.active):
            break
        descent.advance(number)
    return threshold
