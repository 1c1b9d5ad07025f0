"""Training for certificates: what the recipes feed, what they penalise, what they begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError, hub
from audiopure.certification.bases import OneShot
from audiopure.data.synthetic import write_dataset
from audiopure.evaluation.certified.settings import CertifySettings
from audiopure.evaluation.certified.settings import smoothed as smoothed_classifier
from audiopure.level import SpeechLevel, denoised
from audiopure.systems import load_system
from audiopure.training.smoothed import SmoothedConfig, SmoothedRecipe
from audiopure.training.stability import StabilityConfig, StabilityRecipe

SETTINGS: dict[str, Any] = {"steps": 4, "batch": 4, "learning_rate": 1e-3, "background": "sc09"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "sc09", clips_per_label=4, seed=0)
    return folder


def smoothed(root: Path, **changes: Any) -> SmoothedRecipe:
    return SmoothedRecipe(SmoothedConfig(**{**SETTINGS, **changes}), root)


class Told(nn.Module):
    """Logits that are given."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def test_both_versions_of_a_clip_have_the_same_noise_level_and_other_noise(root: Path) -> None:
    recipe = smoothed(root, least=0.1, most=0.5, noise=3e-4)
    noisy, sigma, targets = recipe.batch(3)
    assert noisy.shape == (8, 16_000) and sigma.shape == (8,) and targets.shape == (4, 10)
    first, second = noisy.chunk(2)
    assert torch.equal(*sigma.chunk(2)) and ((sigma >= 0.1) & (sigma <= 0.5)).all()
    spread = (first - second).std(1) / 2**0.5
    torch.testing.assert_close(spread, sigma[:4], rtol=0.03, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(recipe.batch(3), (noisy, sigma, targets), strict=True))


def test_answers_that_differ_are_penalised_and_equal_ones_are_not(root: Path) -> None:
    batch = (torch.zeros(4, 100), torch.ones(4), torch.eye(3)[:2])
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    equal, apart = torch.cat([logits, logits]), torch.cat([logits, logits.flip(0)])

    def losses(given: Tensor) -> list[float]:
        settings = ({"consistency": 0.0, "entropy": 0.0}, {"consistency": 2.0, "entropy": 0.0})
        return [float(smoothed(root, **s).loss(Told(given), batch)) for s in settings]

    plain, penalised = losses(equal)
    assert (
        plain == penalised == pytest.approx(float(nn.functional.cross_entropy(logits, torch.tensor([0, 1]))))
    )
    plain, penalised = losses(apart)
    p, q = logits.softmax(1)
    mean = (p + q) / 2
    divergence = sum(float((x * (x / mean).log()).sum()) for x in (p, q)) / 2
    assert penalised - plain == pytest.approx(2 * divergence, rel=1e-4)


def test_the_mean_answers_entropy_counts(root: Path) -> None:
    batch = (torch.zeros(2, 100), torch.ones(2), torch.eye(3)[:1])
    logits = torch.tensor([[1.0, 0.0, -1.0]]).repeat(2, 1)
    chances = logits[0].softmax(0)
    entropy = -float((chances * chances.log()).sum())
    without, with_ = (
        float(smoothed(root, consistency=0.0, entropy=e).loss(Told(logits), batch)) for e in (0.0, 1.5)
    )
    assert with_ - without == pytest.approx(1.5 * entropy, rel=1e-5)


class Linear(nn.Module):
    """Two logits that differ by twice the product with one waveform."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.weight
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("steps", [1, 3])
def test_training_for_certificates_moves_clips_against_the_answer_as_far_as_it_may(
    root: Path, steps: int
) -> None:
    recipe = smoothed(root, attack=steps, budget=0.5, consistency=0.0, entropy=0.0)
    weight = torch.randn(100, generator=torch.Generator().manual_seed(0))
    model, wave = Linear(weight).train(), torch.randn(4, 100, generator=torch.Generator().manual_seed(1))
    sigma, targets = torch.tensor([0.1, 0.4]).repeat(2), torch.eye(2)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    loss = recipe.loss(model, (wave, sigma, targets))
    assert model.training and len(seen) == steps + 1
    # the worst change of a linear model lies along its weights, the same for both versions of a clip
    sign = torch.tensor([-1.0, 1.0]).repeat(2)
    worst = wave + (0.5 * sigma * sign)[:, None] * weight / weight.norm()
    torch.testing.assert_close(seen[-1], worst)
    expected = nn.functional.cross_entropy(model(worst), targets.repeat(2, 1))
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert model.weight.grad is not None
    still = smoothed(root, consistency=0.0, entropy=0.0).loss(model, (wave, sigma, targets))
    assert still.item() < loss.item()


def test_the_attack_of_training_sees_through_the_denoiser(root: Path) -> None:
    recipe = smoothed(root, denoiser="small", attack=1, consistency=0.0, entropy=0.0)
    batch, model = recipe.batch(0), audiopure.load_recogniser().requires_grad_()
    moved = recipe.loss(model, batch)
    still = smoothed(root, denoiser="small", consistency=0.0, entropy=0.0).loss(model, batch)
    wave, sigma, targets = batch
    white = torch.randn(len(targets), wave.shape[1], generator=torch.Generator().manual_seed(0))
    white *= sigma[: len(targets), None] / white.norm(dim=1, keepdim=True)
    random = smoothed(root, denoiser="small", consistency=0.0, entropy=0.0).loss(
        model, (wave + white.repeat(2, 1), sigma, targets)
    )
    assert moved.item() > 1.01 * max(still.item(), random.item())


def test_validation_judges_moved_clips_too_where_training_moves_them(root: Path) -> None:
    model = audiopure.load_recogniser().requires_grad_()
    plain, attacked = (smoothed(root, attack=steps).validate(model) for steps in (0, 1))
    levels = [name for name in plain if name.startswith("accuracy")]
    assert [plain[name] for name in levels] == [attacked[name] for name in levels] and len(levels) == 4
    moved = [attacked[name.replace("accuracy", "moved")] for name in levels]
    assert sum(moved) < sum(plain[name] for name in levels) and attacked["loss"] > plain["loss"]
    assert attacked["score"] == pytest.approx((sum(moved) + sum(plain[name] for name in levels)) / 8)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("gain", [(5, -5), (float("inf"), 0), (0, 1e5), (float("nan"), 0)])
def test_gains_that_cannot_be_are_refused(root: Path, gain: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="gain"):
        smoothed(root, gain=gain)


def test_gains_lie_where_the_settings_say(root: Path) -> None:
    even, louder = (
        smoothed(root, background=None, gain=gain, least=1e-4, most=1e-4, noise=3e-4)
        for gain in ((0, 0), (-6, -6))
    )
    one, other = (recipe.batch(0)[0].norm(dim=1) for recipe in (even, louder))
    torch.testing.assert_close(20 * torch.log10(other / one), torch.full((8,), -6.0), atol=0.3, rtol=0)


def test_the_recogniser_hears_what_the_certificate_lets_it_hear(root: Path) -> None:
    """Whatever the level: the shipped system's one-shot denoising, clip by clip at its own sigma."""
    recipe, system = smoothed(root, denoiser="small"), load_system("small+digits")
    wave, _, _ = recipe.batch(0)
    wave, sigma = wave[:2] * torch.tensor([[0.1], [3.0]]), torch.tensor([0.02, 0.3])
    heard = recipe._heard(wave, sigma)
    for k in range(2):
        settings = CertifySettings(system="small+digits", sigma=float(sigma[k]))
        base = smoothed_classifier(settings, system).base
        assert isinstance(base, OneShot)
        torch.testing.assert_close(heard[k : k + 1], base.denoise(wave[k : k + 1]), rtol=1e-4, atol=1e-5)


def test_a_recogniser_goes_on_from_given_weights_and_hears_the_denoiser(root: Path) -> None:
    recipe = smoothed(root, initial="digits", denoiser="small")
    network, known = recipe.build(), audiopure.load_recogniser()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), known.parameters(), strict=True))
    heard: list[Tensor] = []

    class Listens(Told):
        def forward(self, x: Tensor) -> Tensor:
            heard.append(x)
            return self.logits

    noisy, sigma, targets = recipe.batch(0)
    recipe.loss(Listens(torch.zeros(8, 10)), (noisy, sigma, targets))
    expected = denoised(hub.load("small"), noisy, sigma, SpeechLevel())  # type: ignore[arg-type]
    torch.testing.assert_close(heard[0], expected, rtol=1e-3, atol=1e-3)
    scores = recipe.validate(known)
    assert set(scores) == {"score", "loss", *(f"accuracy_{level}" for level in (0.05, 0.1, 0.25, 0.5))}
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert recipe.validate(network.eval())["loss"] == pytest.approx(np.log(10), rel=1e-4)  # it knows nothing
    with pytest.raises(InputError, match="is no m5"):
        smoothed(root, network="m5", initial="digits").build()
    with pytest.raises(InputError, match="must not exceed"):
        smoothed(root, least=1.0, most=0.5)


def test_stability_trains_the_denoiser_and_leaves_the_recogniser(root: Path) -> None:
    recipe = StabilityRecipe(StabilityConfig(**SETTINGS), root)
    model = recipe.build()
    loss = recipe.loss(model, recipe.batch(0))
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad is None for p in recipe.recogniser.parameters())
    assert recipe.kind == "denoiser" and recipe.validate(model.eval())["score"] > 0
    # what the recogniser hears of the clip itself is the target, whatever the label
    wave, sigma, noise = recipe.batch(1)
    perfect = recipe.loss(_Answers(wave), (wave, sigma, noise))
    silent = recipe.loss(_Answers(torch.zeros_like(wave)), (wave, sigma, noise))
    assert float(perfect.detach()) < float(silent.detach())


class _Answers(nn.Module):
    """A denoiser whose answer is given."""

    def __init__(self, answer: Tensor):
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.answer
