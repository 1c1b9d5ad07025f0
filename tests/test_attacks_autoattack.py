"""AutoAttack for randomised defences: what it keeps, and whom it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from test_attacks import Linear, clips, defended
from test_attacks_apgd import Third
from torch import Tensor

from audiopure import InputError
from audiopure.attacks import score
from audiopure.attacks.autoattack import AutoAttack
from audiopure.attacks.criteria import margin
from audiopure.noise import SeededNoise


def test_it_keeps_what_has_the_largest_mean_margin() -> None:
    inner, x = defended(), 0.2 * clips(12)
    model, labels = Third(inner), inner.model(x).argmax(1)
    attack = AutoAttack(norm="l2", eps=0.05, steps=4, eot=2, selection=6, targets=1, bits=None)
    assert [member.loss for member in attack.members] == ["ce", "dlr", "dlr"]
    noise = SeededNoise(4)
    with pytest.raises(InputError, match="4 classes"):
        attack(model, x, labels, noise=noise)
    attack = AutoAttack(norm="l2", eps=0.05, steps=4, eot=2, selection=6, bits=None)
    found = attack(model, x, labels, noise=noise)

    def margins(points: Tensor) -> Tensor:
        passes = [noise.fresh(2).fresh(k) for k in range(6)]
        return torch.stack([margin(inner(points, noise=source), labels) for source in passes]).detach()

    finds = [x]
    for number, member in enumerate(attack.members):
        finds.append(member(model, x, labels, noise=noise.fresh(number)).adversarial)
    each = torch.stack([margins(points) for points in finds])
    gone, means = (each > 0).all(1), each.mean(1)
    means[1:, gone[0]] = means[2:, gone[1]] = -math.inf  # which the later attacks never saw
    torch.testing.assert_close(margins(found.adversarial).mean(0), means.amax(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.loss, means.amax(0), rtol=0, atol=1e-4)
    assert {1, 2} <= set(means.argmax(0).tolist()) and not gone[:2].any(0).all()


def test_it_leaves_a_clip_alone_once_every_pass_fails() -> None:
    inner, x = Linear(), clips(8)
    model = Third(inner)
    labels = model(x).argmax(1)
    wrong = torch.tensor([0, 3])
    labels[wrong] = 1 - labels[wrong]
    far = model(x).detach().gather(1, labels[:, None]).squeeze(1).abs() / inner.weight.detach().norm()
    attack = AutoAttack(norm="l2", eps=1.05 * float(far.median()), steps=5, eot=1, selection=4)
    found = attack(model, x, labels, noise=SeededNoise(0))
    assert torch.equal(found.adversarial[wrong], x[wrong])
    assert (found.queries[wrong] == 4).all()
    others = torch.tensor([row for row in range(8) if row not in wrong.tolist()])
    failing = ~score(model, found.adversarial, labels, noise=SeededNoise(1))[others, 0]
    second = found.queries[others] > found.queries[others].min()
    assert torch.equal(failing, ~second) and failing.any() and second.any()
    assert found.history.shape == found.survived.shape == (2, 6, 8)
    assert not found.survived[:, :, wrong].any()
    everything = AutoAttack(norm="l2", eps=3.0, steps=2, eot=1, selection=1, restarts=2)
    assert everything(model, x, labels, noise=SeededNoise(0)).history.shape == (4, 3, 8)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"selection": 0}, {"targets": 0}, {"restarts": 0}])
def test_bad_settings(settings: dict[str, int]) -> None:
    with pytest.raises(InputError):
        AutoAttack(**settings)  # type: ignore[arg-type]
