"""Restarts side by side: the same runs, whichever of them share a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_attacks import Norm, Shrinker, clips, defended
from test_attacks_apgd import Classes
from torch import Tensor, nn

import audiopure
from audiopure.attacks import Attack, Pgd, Square
from audiopure.attacks.apgd import Apgd
from audiopure.attacks.restarts import groups, joined
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier


class Counting(nn.Module):
    """Notes how many rows come at once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        self.rows.append(len(waveform))
        return self.model(waveform, noise=noise)


def attacks(norm: Norm, eps: float) -> list[Attack]:
    shared = {"norm": norm, "eps": eps, "steps": 7, "eot": 2, "restarts": 3, "bits": None}
    return [
        Pgd(**shared, momentum=0.5),
        Pgd(**shared, leave=3, start=Pgd(norm=norm, eps=eps, steps=1)),
        Apgd(**shared, loss="margin"),
        Apgd(norm=norm, eps=eps, steps=7, eot=2, bits=None, loss="dlr", targets=3),
        Square(norm=norm, eps=eps, queries=40, eot=2, restarts=3, leave=3, bits=None),
    ]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.3)])
def test_side_by_side_or_one_after_another_restarts_find_the_same(norm: Norm, eps: float) -> None:
    """Some clips leave some of the restarts early, others stay: rows of all kinds share a batch."""
    model = audiopure.defend(Classes(), Purifier(Shrinker(), n_star=3)).double()
    x, lengths = clips(4).double(), torch.tensor([64, 64, 50, 33])
    labels, noise = model(x, noise=SeededNoise(8)).argmax(1), SeededNoise(2).for_items([4, 9, 1, 7])
    for attack in attacks(norm, eps):
        found = [
            replace(attack, max_rows=rows)(model, x, labels, noise=noise, lengths=lengths)  # type: ignore[arg-type,call-arg]
            for rows in (1, 16, 64)  # restarts at once: 1, 2, 3
        ]
        for other in found[1:]:
            torch.testing.assert_close(other.adversarial, found[0].adversarial, rtol=0, atol=1e-11)
            torch.testing.assert_close(other.history, found[0].history)
            assert torch.equal(other.survived, found[0].survived)
            assert torch.equal(other.queries, found[0].queries)
        assert not torch.equal(found[0].history[0], found[0].history[1])
        if getattr(attack, "leave", None):
            assert len(found[0].queries.unique()) > 1


def test_restarts_share_a_batch_and_progress_counts_each() -> None:
    model, x = Counting(defended()), clips(2)
    steps: list[None] = []
    attack = Pgd(steps=4, restarts=5, eot=2, max_rows=12, selection=1)
    labels = torch.zeros(2, dtype=torch.long)
    attack(model, x, labels, noise=SeededNoise(0), progress=lambda: steps.append(None))
    assert model.rows.count(12) == 5 and model.rows.count(8) == 5  # four steps and the last look
    assert len(steps) == 20


def test_joined_noise_is_that_of_each_run_bit_for_bit() -> None:
    noise = SeededNoise(3).for_items([5, 6, 7])
    together = joined(noise, range(2, 4), 3)
    alone = [noise.fresh(2).fresh(1), noise.fresh(3).fresh(1)]
    drawn = together.fresh(1).normal((6, 101), draw=2, start=3)
    assert torch.equal(drawn, torch.cat([n.normal((3, 101), draw=2, start=3) for n in alone]))
    assert torch.equal(together.fresh(1).rows([4, 0]).normal((2, 101), draw=2, start=3), drawn[[4, 0]])
    assert joined(noise, range(2, 3), 3) == noise.fresh(2)


def test_groups_are_as_large_as_fits() -> None:
    assert groups(5, 6, 12) == [range(2), range(2, 4), range(4, 5)]
    assert groups(2, 100, 12) == [range(1), range(1, 2)]
    assert groups(3, 0, 12) == [range(3)]
