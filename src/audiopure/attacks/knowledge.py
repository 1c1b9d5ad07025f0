"""What the attacker knows of the defence's randomness (ADDT, Liu et al. 2024).

In use nobody knows it: the "white-box" setting, in which every pass draws anew. `DW_fwd`, `DW_rev` and
`DW_both` fix the draws of each clip, tell the attacker those of the forward noise, of the reverse steps, or
all, and score with the same. `semi` fixes a set of such draws, all of them known. They measure how much of a
defence is its randomness, by noise replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiopure.attacks.objective import Stacked, call
from audiopure.errors import InputError
from audiopure.noise import FORWARD, NoiseSource, SeededNoise


class Known(NamedTuple):
    """Which draws the attacker knows."""

    forward: bool
    reverse: bool


SETTINGS: Mapping[str, Known] = {
    "white-box": Known(False, False),
    "DW_fwd": Known(True, False),
    "DW_rev": Known(False, True),
    "DW_both": Known(True, True),
}


@dataclass(frozen=True)
class Partly:
    """Some draws from `known`, the others from `own`."""

    known: NoiseSource
    own: NoiseSource
    forward: bool
    reverse: bool

    def normal(
        self,
        shape: tuple[int, int],
        *,
        draw: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        source = self.known if (self.forward if draw == FORWARD else self.reverse) else self.own
        return source.normal(shape, draw=draw, start=start, device=device, dtype=dtype)

    def fresh(self, number: int) -> Partly:
        return replace(self, known=self.known.fresh(number), own=self.own.fresh(number))


class Knowing(nn.Module):
    """A randomised model whose draws are partly fixed.

    Attack the model of the attacker's setting; score the one with everything fixed.

    Args:
        model: randomised; what `attacks` take.
        seed: of the fixed draws. Those of a clip follow from it and the clip's name in the noise source.
        forward, reverse: which draws are fixed.
        sets: number of fixed sets of draws; a pass uses one of them, which one its own noise decides.

    Raises InputError, when called, without a noise source to tell clips apart by.
    """

    def __init__(
        self,
        model: nn.Module,
        seed: int,
        *,
        forward: bool = True,
        reverse: bool = True,
        sets: int = 1,
    ):
        super().__init__()
        self.model = model
        self.seed, self.forward_known, self.reverse_known, self.sets = seed, forward, reverse, sets

    def forward(self, waveform: Tensor, *, noise: NoiseSource, lengths: Tensor | None = None) -> Tensor:
        """Shape: (B, T) -> (B, C)."""
        own = noise.sources if isinstance(noise, Stacked) else (noise,)
        known = Stacked(tuple(self._known(source) for source in own))
        partly = Partly(known, noise, self.forward_known, self.reverse_known)
        return call(self.model, waveform, partly, lengths)

    def _known(self, source: NoiseSource) -> SeededNoise:
        if not isinstance(source, SeededNoise):
            raise InputError("draws can only be fixed where the noise has a seed")
        chosen = int(source.seed) % self.sets
        return replace(SeededNoise(self.seed).fresh(chosen), items=source.items)


def settings(model: nn.Module, seed: int, name: str) -> tuple[nn.Module, nn.Module]:
    """The model to attack and the model to score under a setting, one of SETTINGS or "semi-N" (N sets).

    Raises InputError for an unknown setting.
    """
    if name.startswith("semi-") and name[5:].isdigit() and int(name[5:]) > 0:
        known = Knowing(model, seed, sets=int(name[5:]))
        return known, known
    if name not in SETTINGS:
        raise InputError(f"there is no setting '{name}'; there are: {', '.join(SETTINGS)} and semi-N")
    if name == "white-box":
        return model, model
    return Knowing(model, seed, **SETTINGS[name]._asdict()), Knowing(model, seed)
