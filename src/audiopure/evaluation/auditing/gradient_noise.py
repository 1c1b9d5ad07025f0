"""How much the gradients of a randomised model vary from draw to draw, and so what EOT has to average."""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from audiopure.attacks.objective import Objective
from audiopure.noise import SeededNoise

EOT_COSINE = 0.9


class Probed(NamedTuple):
    """Gradients of independent draws.

    Attributes:
        fixed: they and the losses are all the same.
        error: why there is no gradient.
        pairwise: mean cosine of two of them (the `test_sigma` of Li et al. 2024, ADBM).
    """

    fixed: bool
    error: str | None
    pairwise: float | None

    @property
    def eot(self) -> int | None:
        """Fewest draws whose mean has an expected cosine of `EOT_COSINE` with the true mean.

        Were each the mean plus independent noise, `pairwise` would be the mean's share of the power.
        """
        if self.pairwise is None or self.pairwise <= 0:
            return None
        wanted = EOT_COSINE**2 / (1 - EOT_COSINE**2)
        return max(1, math.ceil(wanted * (1 - self.pairwise) / self.pairwise))


def probe(climbed: Objective, x: Tensor, noise: SeededNoise, probes: int) -> Probed:
    """Gradients of `probes` independent draws at x (B, T)."""
    try:
        found = [climbed.gradient(x, noise.fresh(k), 1) for k in range(probes)]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return Probed(False, str(error).splitlines()[0], None)
    gradients = torch.stack([slope.gradient for slope in found])
    if not bool(gradients.isfinite().all()):
        return Probed(False, "the gradient is not finite", None)
    first = found[0]
    fixed = all(torch.equal(f.loss, first.loss) and torch.equal(f.gradient, first.gradient) for f in found)
    size = gradients.norm(dim=-1)
    usable = (size > 0).all(0)
    if not bool(usable.any()):
        return Probed(fixed, None, None)
    units = gradients[:, usable] / size[:, usable, None]
    pairs = [float((units[i] * units[j]).sum(-1).mean()) for i, j in combinations(range(probes), 2)]
    return Probed(fixed, None, 1.0 if fixed or not pairs else sum(pairs) / len(pairs))
