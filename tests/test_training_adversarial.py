"""Adversarial training: attacks that stay in their budgets, and losses that are what their papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from audiopure import InputError
from audiopure.attacks.ball import ball
from audiopure.data.synthetic import write_dataset
from audiopure.noise import SeededNoise
from audiopure.training.adversarial import AdversarialRecipe
from audiopure.training.adversarial_config import AdversarialConfig
from audiopure.training.adversarial_methods import METHODS, climb, divergence

ROUNDING = 1e-6  # of differences of samples
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "batch": 6,
    "learning_rate": 1e-3,
    "background": "sc09",
    "inner": 3,
    "budgets": {"linf": 0.01, "l2": 0.5},
    "checkpoint_every": 4,
    "validate_every": 4,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "sc09", clips_per_label=4, seed=0)
    return folder


def recipe(root: Path, **changes: Any) -> AdversarialRecipe:
    return AdversarialRecipe(AdversarialConfig(**{**SETTINGS, **changes}), root)


class Listens(nn.Module):
    """A linear recogniser that remembers what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16_000, 10, bias=False)
        nn.init.normal_(self.layer.weight, std=0.02, generator=torch.Generator().manual_seed(0))
        self.heard: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.heard.append(x.detach())
        return self.layer(x)


def test_ascent_on_a_linear_loss_reaches_the_corner_of_the_ball() -> None:
    w = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    clean = torch.zeros(1, 50)
    for norm, size in (("linf", w.sign() * 0.1), ("l2", w / w.norm() * 0.1)):
        found = climb(lambda x, _: (w * x).sum(), ball(norm, 0.1, clean), 20, 0.2, SeededNoise(0))
        torch.testing.assert_close(found, size, rtol=0, atol=3e-3)


@pytest.mark.parametrize("method", ["pgd", "fast"])
def test_a_share_of_the_batch_is_attacked_within_each_budget(root: Path, method: str) -> None:
    training = recipe(root, method=method, ratio=0.5)
    model = Listens().train()
    wave, targets, step = training.batch(0)
    training.loss(model, (wave, targets, step)).backward()
    (heard,) = model.heard
    change = heard - wave
    assert (change[3:] == 0).all() and (change[:3].abs().amax(1) > 0).all()
    assert float(change[0].abs().max()) <= 0.01 * (1 + 1e-6) and float(change[2].abs().max()) <= 0.01 * (
        1 + 1e-6
    )
    assert float(change[1].norm()) <= 0.5 + ROUNDING
    before, after = (nn.functional.cross_entropy(model.layer(x[:3]), targets[:3]) for x in (wave, heard))
    assert float(after.detach()) > float(before.detach()) and model.training


def test_free_training_moves_the_same_batch_on_and_begins_anew_with_the_next(root: Path) -> None:
    training = recipe(root, method="free", replays=2, budgets={"linf": 0.01})
    model = Listens().train()
    for step in range(4):
        batch = training.batch(step)
        training.loss(model, batch).backward()
    assert torch.equal(training.batch(0)[0], training.batch(1)[0])
    assert not torch.equal(training.batch(1)[0], training.batch(2)[0])
    changes = [heard - training.batch(step)[0] for step, heard in enumerate(model.heard)]
    assert all(float(change.abs().max()) <= 0.01 + ROUNDING for change in changes)
    for first, second in zip(changes[::2], changes[1::2], strict=True):
        assert not torch.allclose(first, second)
        assert float((second.abs() > 0.0099).float().mean()) > 0.4  # a step of the whole budget by the sign
    for step in (1, 3):  # and it climbs
        wave, targets, _ = training.batch(step)
        first, second = (
            nn.functional.cross_entropy(model.layer(wave + change), targets)
            for change in changes[step - 1 : step + 1]
        )
        assert float(second.detach()) > float(first.detach())
    with pytest.raises(InputError, match="every 3 steps"):
        recipe(root, method="free", replays=3)


def test_trades_keeps_answers_and_its_second_term_vanishes_without_a_budget(root: Path) -> None:
    p, q = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.4, 0.6]]).log()
    truth = 0.7 * torch.log(torch.tensor(0.7 / 0.4)) + 0.3 * torch.log(torch.tensor(0.3 / 0.6))
    torch.testing.assert_close(divergence(p, q)[0], truth)
    model = Listens().eval()
    wave, targets, step = recipe(root).batch(0)
    losses = {}
    for eps in (1e-9, 0.01):
        training = recipe(root, method="trades", budgets={"linf": eps}, beta=2.0)
        losses[eps] = float(training.loss(model, (wave, targets, step)).detach())
    plain = float(nn.functional.cross_entropy(model.layer(wave), targets).detach())
    assert losses[1e-9] == pytest.approx(plain, rel=1e-3) and losses[0.01] > 1.01 * plain


def test_the_jacobian_penalty_is_its_frobenius_norm_on_average(root: Path) -> None:
    training = recipe(root, method="jacobian", slope=1.0)
    model = Listens().eval()
    wave, targets, _ = training.batch(0)
    plain = float(nn.functional.cross_entropy(model.layer(wave), targets).detach())
    found = [
        float(METHODS["jacobian"](training, model, wave, targets, SeededNoise(0).fresh(k)).detach()) - plain
        for k in range(100)
    ]
    truth = float(model.layer.weight.detach().norm())
    # the root of an unbiased square: a little below the truth, as |v J| hardly varies
    assert sum(found) / 100 == pytest.approx(truth, rel=0.03)
    loss = METHODS["jacobian"](training, model, wave, targets, SeededNoise(0))
    (gradient,) = torch.autograd.grad(loss, model.layer.weight)
    assert float((gradient * model.layer.weight).sum().detach()) > 0.5 * truth  # it shrinks the weights


class Split(nn.Module):
    """A recogniser whose front end is not linear, and whose body is linear or not."""

    mix: Tensor

    def __init__(self, linear: bool) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.register_buffer("mix", torch.randn(16_000, 20, generator=draw) * 0.05)
        self.body = nn.Linear(20, 10, bias=False)
        nn.init.normal_(self.body.weight, generator=draw)
        if linear:  # the slope of the cross-entropy then has one direction for all clips of word 0
            self.body.weight.data[1:] = 0
        self.linear, self.met = linear, []

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.mix + 3 * (x**2) @ self.mix)

    def classify(self, features: Tensor) -> Tensor:
        if features.requires_grad:
            self.met.append(features.detach())
        return self.body(features if self.linear else features + 0.5 * features.sin())

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


@pytest.mark.parametrize(("linear", "cheap"), [(True, 3), (False, 1)])
def test_yopo_is_pgd_where_the_costate_is_constant_or_always_new(
    root: Path, linear: bool, cheap: int
) -> None:
    """By plain gradients of the whole network, from the same random start."""
    training = recipe(root, method="yopo", inner=6, cheap=cheap, ratio=1.0)
    model = Split(linear).train()
    wave = training.batch(0)[0]
    targets = nn.functional.one_hot(torch.zeros(len(wave), dtype=torch.long), 10).float()
    loss = METHODS["yopo"](training, model, wave, targets, SeededNoise(4))
    met, losses = model.met, []
    assert len(met) == 6 // cheap + 1
    x = wave.clone()
    balls = training.balls(wave)
    for number, (rows, around) in enumerate(balls):
        x[rows] = around.random(SeededNoise(4).fresh(number))
    for step in range(7):
        point = x.clone().requires_grad_()
        value = nn.functional.cross_entropy(model(point), targets, reduction="sum")
        (slope,) = torch.autograd.grad(value, point)
        if step % cheap == 0:
            torch.testing.assert_close(met[step // cheap], model.features(x), rtol=1e-4, atol=1e-4)
            losses.append(float(value.detach()) / len(wave))
        for rows, around in balls:
            x[rows] = around.project(x[rows] + 0.2 * around.eps * around.ascent(slope[rows]))
    assert float(loss.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert losses[-1] > losses[0]


def test_yopo_attacks_through_the_front_end_alone(root: Path) -> None:
    torch.manual_seed(0)
    training = recipe(root, method="yopo", inner=6, cheap=3, budgets={"linf": 0.01}, initial="digits")
    model = training.build().train()
    calls = []
    classify = model.classify
    model.classify = lambda features: calls.append(len(features)) or classify(features)  # type: ignore
    loss = training.loss(model, training.batch(0))
    # two costates for six steps, and the last pass; each gives the weights a gradient
    assert calls == [6, 6, 6] and torch.isfinite(loss)
    with pytest.raises(InputError, match="yopo needs"):
        training = recipe(root, method="yopo", network="m5")
        training.loss(training.build(), training.batch(0))
    with pytest.raises(InputError, match="multiple of 4"):
        recipe(root, method="yopo", inner=6, cheap=4)


def test_trades_is_cross_entropy_and_beta_times_the_divergence(root: Path) -> None:
    """By SciPy, from what the network was trained on."""
    training = recipe(root, method="trades", beta=3.0)
    model = Listens().train()
    wave, targets, step = training.batch(0)
    loss = training.loss(model, (wave, targets, step))
    clean, found = model.heard
    assert torch.equal(clean, wave) and float((found - wave).abs().amax()) > 0
    weight = model.layer.weight.detach().double().numpy()
    p, q = (softmax(x.double().numpy() @ weight.T, axis=1) for x in (clean, found))
    right = p[np.arange(len(p)), targets.argmax(1).numpy()]
    expected = -np.log(right).mean() + 3 * rel_entr(p, q).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_through_a_defence_or_says_that_it_cannot(root: Path, method: str) -> None:
    training = recipe(
        root, method=method, defence="small,n_star=1", batch=2, inner=1, cheap=1, replays=1, network="m5"
    )
    model = training.build().train()
    if method == "yopo":
        with pytest.raises(InputError, match="no defence"):
            training.loss(model, training.batch(0))
        return
    training.loss(model, training.batch(0)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_all_weights_in_bfloat16_as_well(root: Path, method: str) -> None:
    """Attacks run without gradients of the weights, which autocast's cache of them must not forget."""
    torch.manual_seed(0)
    training = recipe(root, method=method, inner=2, cheap=2, replays=1, network="mel_resnet")
    model = training.build().eval()  # the same in both, whatever batch norm would round
    found = []
    for precise in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            loss = training.loss(model, training.batch(0))
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(torch.cosine_similarity(*found, dim=0)) > 0.9


def test_the_control_of_the_jacobian_penalty_has_none(root: Path) -> None:
    control, ordinary = recipe(root, method="jacobian", slope=0.0), recipe(root, method="pgd")
    model = Listens()
    wave, targets, _ = control.batch(0)
    loss = METHODS["jacobian"](control, model, wave, targets, SeededNoise(0))
    expected = torch.nn.functional.cross_entropy(ordinary.hear(model, wave, SeededNoise(0)), targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_validation_attacks_in_every_norm(root: Path) -> None:
    training = recipe(root)
    scores = training.validate(training.build().eval())
    assert set(scores) == {"score", "accuracy", "accuracy_linf", "accuracy_l2", "loss"}
    accuracies = [v for k, v in scores.items() if k.startswith("accuracy")]
    assert scores["score"] == pytest.approx(sum(accuracies) / 3)
    with pytest.raises(InputError, match="is no m5"):
        recipe(root, network="m5", initial="digits").build()


def test_the_validation_loss_is_that_of_attacked_clips_and_always_the_same(root: Path) -> None:
    model = Listens().eval()
    losses = {}
    for method in METHODS:
        if method != "yopo":
            training = recipe(root, method=method, ratio=1.0, replays=2, budgets={"linf": 0.01}, slope=1e-2)
            losses[method] = training.validate(model)
            assert training.validate(model) == losses[method]
    training = recipe(root)
    plain = float(nn.functional.cross_entropy(model.layer(training.held_out), training.targets).detach())
    assert all(found["loss"] > 1.001 * plain for found in losses.values())
    assert losses["free"]["loss"] == losses["pgd"]["loss"]
    # the slope of a linear network is its weight's Frobenius norm, but for the random projection
    found = losses["jacobian"]
    assert found["slope"] == pytest.approx(float(model.layer.weight.detach().norm()), rel=0.1)
    assert found["penalty"] == pytest.approx(1e-2 * found["slope"], rel=1e-5)
    assert found["loss"] == pytest.approx(plain + found["penalty"], rel=1e-4)
