"""Other toolkits on our systems: the same attack finds the same, and randomness is ours to choose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

import audiopure
from audiopure import Defended, MissingExtraError
from audiopure.adapters import Drawn, to_art, to_foolbox
from audiopure.attacks import Pgd
from audiopure.attacks.apgd import Apgd
from audiopure.data import collate, load_dataset
from audiopure.diffusion.denoiser import GaussianDenoiser
from audiopure.metrics import clopper_pearson
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

Norm = Literal["linf", "l2"]
CLIPS, STEPS = 40, 8
# budgets at which about half of the clips withstand
BUDGETS: list[tuple[Norm, float]] = [("linf", 0.0008), ("l2", 0.05)]


@pytest.fixture(scope="module")
def speech(data_root: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """A fixed recogniser, clips (B, 16000) and what it hears in them."""
    dataset = load_dataset("sc09", data_root, "test")
    waveform, _ = collate(dataset.stratified(min(CLIPS, len(dataset)), seed=0).load_all())
    waveform = nn.functional.pad(waveform, (0, 16_000 - waveform.shape[1]))
    model = audiopure.load_recogniser("m5")
    return model, waveform, model(waveform).argmax(1)


def by_art(attack: str, norm: Norm, eps: float, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    evasion = pytest.importorskip("art.attacks.evasion")
    classifier = to_art(model, [str(k) for k in range(10)])
    settings: dict[str, Any] = {
        "norm": np.inf if norm == "linf" else 2,
        "eps": eps,
        "max_iter": STEPS,
        "batch_size": 64,
        "verbose": False,
    }
    if attack == "pgd":
        made = evasion.ProjectedGradientDescent(classifier, eps_step=2.5 * eps / STEPS, **settings)
    else:
        # by default it climbs a loss that depends on the batch, and restarts five times
        settings |= {"loss_type": "cross_entropy", "nb_random_init": 1, "eps_step": 2 * eps}
        np.random.seed(0)
        made = evasion.AutoProjectedGradientDescent(classifier, **settings)
    return torch.from_numpy(made.generate(x.numpy(), y=labels.numpy()))


def by_foolbox(norm: Norm, eps: float, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    attacks = pytest.importorskip("foolbox").attacks
    kind = attacks.LinfPGD if norm == "linf" else attacks.L2PGD
    attack = kind(abs_stepsize=2.5 * eps / STEPS, steps=STEPS, random_start=False)
    return attack(to_foolbox(model), x, labels, epsilons=eps)[1]


def agree(model: nn.Module, labels: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Their accuracy lies within the interval of ours, and the clips that differ do not lean to one side."""
    with torch.no_grad():
        first, second = (model(x).argmax(1) == labels for x in (ours, theirs))
    low, high = clopper_pearson(int(first.sum()), len(labels))
    assert low <= float(second.float().mean()) <= high
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second:
        assert binomtest(only_first, only_first + only_second).pvalue > 0.05
    if len(labels) == CLIPS:
        assert 0 < int(first.sum()) < CLIPS, "a budget at which all or none withstand says nothing"


@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_our_pgd_and_theirs_agree(norm: Norm, eps: float, speech: tuple) -> None:
    model, x, labels = speech
    attack = Pgd(norm=norm, eps=eps, steps=STEPS, random_start=False, bits=None)
    ours = attack(model, x, labels, noise=SeededNoise(0)).adversarial
    agree(model, labels, ours, by_art("pgd", norm, eps, *speech))
    agree(model, labels, ours, by_foolbox(norm, eps, *speech))


@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_our_auto_pgd_and_theirs_agree(norm: Norm, eps: float, speech: tuple) -> None:
    model, x, labels = speech
    attack = Apgd(norm=norm, eps=eps, steps=STEPS, bits=None)
    ours = attack(model, x, labels, noise=SeededNoise(0)).adversarial
    agree(model, labels, ours, by_art("apgd", norm, eps, *speech))


# --- randomised systems -------------------------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(5).normal((3, 64), draw=0))

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform @ self.weight.T


def defended() -> Defended:
    denoiser = GaussianDenoiser(torch.zeros(64), torch.full((64,), 0.01))
    return audiopure.defend(Linear(), Purifier(denoiser, n_star=3)).eval()


def clips() -> Tensor:
    return (0.2 * SeededNoise(1).normal((4, 64), draw=0)).clamp(-1, 1)


def test_noise_is_fresh_at_each_call_unless_it_is_given() -> None:
    x = clips()
    fresh, fixed = Drawn(defended()), Drawn(defended(), SeededNoise(3))
    assert not torch.equal(fresh(x), fresh(x))
    assert torch.equal(fixed(x), fixed(x))
    assert torch.equal(fixed(x), defended()(x, noise=SeededNoise(3)))


def test_art_sees_the_gradient_of_the_defended_system() -> None:
    pytest.importorskip("art")
    x, labels = clips(), torch.tensor([0, 1, 2, 0])
    classifier = to_art(defended(), ["a", "b", "c"], samples=64, noise=SeededNoise(3))
    found = classifier.loss_gradient(x.numpy(), np.eye(3, dtype=np.float32)[labels])
    point = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(defended()(point, noise=SeededNoise(3)), labels)
    (expected,) = torch.autograd.grad(loss, point)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-7)
    assert tuple(classifier.clip_values) == (-1.0, 1.0) and classifier.nb_classes == 3


def test_foolbox_sees_the_logits_of_the_defended_system() -> None:
    pytest.importorskip("foolbox")
    model = to_foolbox(defended(), noise=SeededNoise(3))
    assert tuple(model.bounds) == (-1, 1)
    torch.testing.assert_close(model(clips()), defended()(clips(), noise=SeededNoise(3)))


@pytest.mark.parametrize(
    ("module", "adapt"),
    [
        ("art.estimators.classification", lambda: to_art(Linear(), ["a", "b", "c"])),
        ("foolbox.models.pytorch", lambda: to_foolbox(Linear())),
    ],
    ids=["art", "foolbox"],
)
def test_a_missing_toolkit_is_named(module: str, adapt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"audiopure\[attack-check\]"):
        adapt()
