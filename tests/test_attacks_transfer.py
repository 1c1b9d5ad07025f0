"""Transfer: the surrogate's attack and nothing else, MI-FGSM as published, and surrogates made of answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.attacks import Pgd, predict, score
from audiopure.attacks.apgd import Apgd
from audiopure.attacks.objective import Objective
from audiopure.attacks.transfer import MiFgsm, Transfer
from audiopure.data import collate, load_dataset
from audiopure.data.manifest import Dataset
from audiopure.noise import SeededNoise
from audiopure.training.surrogate import train_surrogate

LENGTH = 64


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(SeededNoise(5).normal((1, LENGTH), draw=0)[0])
        self.rows = 0

    def forward(self, waveform: Tensor) -> Tensor:
        self.rows += len(waveform)
        value = waveform @ self.weight.to(waveform.dtype)
        return torch.stack([value, -value], -1)


class Curved(Linear):
    """The sparsity of its gradient changes from step to step."""

    def forward(self, waveform: Tensor) -> Tensor:
        value = (waveform * self.weight.to(waveform.dtype) * 10).sin().square().sum(1)
        return torch.stack([-value, value], -1)


class CoinFlip(nn.Module):
    """Right with probability 0.7, whatever it hears."""

    def forward(self, waveform: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        coin = noise.normal((len(waveform), 1), draw=0)
        return torch.cat([0 * waveform[:, :1], coin + 0.5244], dim=1)


class Stubborn(nn.Module):
    """Says "seven" to every clip, with 99 % probability."""

    def forward(self, waveform: Tensor) -> Tensor:
        return torch.nn.functional.pad(0 * waveform[:, :9], (0, 1)).index_fill(1, torch.tensor(7), 6.8)


def clips(batch: int = 5) -> Tensor:
    return (0.2 * SeededNoise(1).normal((batch, LENGTH), draw=0)).clamp(-1, 1)


@pytest.mark.parametrize(
    "inner", [MiFgsm(eps=0.01), Pgd(norm="l2", eps=0.1, steps=5), Apgd(eps=0.01, steps=5)], ids=type
)
def test_on_a_copy_of_the_victim_it_is_the_white_box_attack(inner: Pgd | Apgd) -> None:
    x, labels, noise = clips(), torch.tensor([0, 1, 0, 1, 1]), SeededNoise(3)
    direct = inner(Linear(), x, labels, noise=noise.fresh(0))
    moved = Transfer(inner=inner, surrogate=Linear())(Linear(), x, labels, noise=noise)
    assert torch.equal(moved.adversarial, direct.adversarial)
    torch.testing.assert_close(moved.loss, direct.loss)
    assert not torch.equal(moved.adversarial, x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_mi_fgsm_is_the_published_algorithm(norm: str) -> None:
    model, x, labels, eps = Curved().double(), clips().double(), torch.tensor([0, 1, 0, 1, 1]), 0.05
    attack = MiFgsm(norm=norm, eps=eps, steps=6, step_size=eps / 6)  # type: ignore[arg-type]
    history = attack(model, x, labels, noise=SeededNoise(0)).history[0]
    point, velocity = x.clone(), torch.zeros_like(x)
    for step in range(7):
        point = point.detach().requires_grad_()
        losses = nn.functional.cross_entropy(model(point), labels, reduction="none")
        torch.testing.assert_close(history[step], losses.detach(), rtol=1e-9, atol=1e-9)
        (slope,) = torch.autograd.grad(losses.sum(), point)
        velocity = velocity + slope / slope.abs().sum(1, keepdim=True)
        way = velocity.sign() if norm == "linf" else velocity / velocity.norm(dim=1, keepdim=True)
        point = (point + eps / 6 * way).clamp(-1, 1)
    # in fewer steps than fill the ball no projection matters
    assert (point - x).abs().max() <= eps * 7 / 6 + 1e-12


def test_the_victim_answers_nothing_but_the_judgement() -> None:
    victim, x, labels = Linear(), clips(), torch.tensor([0, 1, 0, 1, 1])
    result = Transfer(inner=MiFgsm(), surrogate=Curved(), selection=3)(
        victim, x, labels, noise=SeededNoise(0)
    )
    assert victim.rows == 3 * 5 and result.queries.tolist() == [3] * 5
    loss = Objective(Linear(), labels).value(result.adversarial, SeededNoise(0), 1)
    torch.testing.assert_close(result.loss, loss)
    assert result.history.shape == result.survived.shape == (1, 1, 5)


def test_luck_does_not_count_as_success() -> None:
    x, labels = clips(50), torch.ones(50, dtype=torch.long)
    attack = Transfer(inner=MiFgsm(eps=0.01), surrogate=Linear(), selection=40)
    result = attack(CoinFlip(), x, labels, noise=SeededNoise(2))
    # 2000 flips: one standard deviation is 0.01
    assert float(result.survived.mean()) == pytest.approx(0.7, abs=0.05)
    assert (result.survived > 0).all()


def test_a_clip_is_attacked_alike_alone_and_in_a_batch_and_again() -> None:
    x, labels, lengths = clips().double(), torch.tensor([0, 1, 0, 1, 1]), torch.tensor([64, 64, 40, 64, 64])
    attack = Transfer(inner=MiFgsm(eps=0.01, bits=None), surrogate=Curved(), selection=4)
    noise = SeededNoise(2).for_items([10, 11, 12, 13, 14])
    whole = attack(CoinFlip(), x, labels, noise=noise, lengths=lengths)
    part = attack(CoinFlip(), x[[2]], labels[[2]], noise=noise.for_items([12]), lengths=lengths[[2]])
    again = attack(CoinFlip(), x, labels, noise=noise, lengths=lengths)
    torch.testing.assert_close(part.adversarial, whole.adversarial[[2]], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.loss, whole.loss[[2]])
    assert torch.equal(again.adversarial, whole.adversarial) and torch.equal(again.loss, whole.loss)
    assert torch.equal(whole.adversarial[2, 40:], x[2, 40:])


def test_its_label_and_bad_settings() -> None:
    attack = Transfer(inner=MiFgsm(eps=0.004), surrogate=Linear())
    assert (attack.norm, attack.eps) == ("linf", 0.004)
    assert "MiFgsm" in repr(attack) and "Linear" not in repr(attack)
    assert MiFgsm(eps=0.01, steps=4).step == 0.005
    with pytest.raises(InputError, match="selection"):
        Transfer(inner=MiFgsm(), surrogate=Linear(), selection=0)


@pytest.fixture(scope="module")
def training_clips(data_root: Path) -> Dataset:
    dataset = load_dataset("sc09", data_root, "train")
    return dataset.stratified(min(120, len(dataset)), seed=1)


def test_a_surrogate_learns_what_the_victim_says_and_not_the_labels(
    training_clips: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "surrogate.safetensors"
    surrogate = train_surrogate(
        Stubborn(), training_clips, "m5", noise=SeededNoise(1), steps=40, batch=8, path=path
    )
    waveform, _ = collate(training_clips.load_all())
    assert training_clips.targets().bincount().tolist() == [len(training_clips) // 10] * 10
    assert (surrogate(waveform).softmax(1)[:, 7] > 0.7).float().mean() > 0.9
    stored = audiopure.load_recogniser(path)
    assert torch.equal(stored(waveform[:3]), surrogate(waveform[:3]))
    assert not any(p.requires_grad for p in surrogate.parameters()) and not surrogate.training


def test_the_same_noise_gives_the_same_surrogate(training_clips: Dataset) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed + int(torch.rand(()) * 1000))
        trained = train_surrogate(
            Stubborn(), training_clips, "m5", noise=SeededNoise(seed), clips=40, steps=3, batch=8
        )
        return torch.cat([p.flatten() for p in trained.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_victims_classes_must_be_those_of_the_clips(training_clips: Dataset) -> None:
    class Two(nn.Module):
        def forward(self, waveform: Tensor) -> Tensor:
            return waveform[:, :2]

    with pytest.raises(InputError, match="2 classes"):
        train_surrogate(Two(), training_clips, "m5", noise=SeededNoise(1), clips=20, steps=1)


def test_a_large_change_transfers_between_the_shipped_recognisers(data_root: Path) -> None:
    dataset = load_dataset("sc09", data_root, "test")
    dataset = dataset.stratified(min(20, len(dataset)), seed=0)
    waveform, lengths = collate(dataset.load_all())
    victim = audiopure.load_recogniser("digits")
    labels = predict(victim, waveform, noise=SeededNoise(0))[:, 0].argmax(1)
    attack = Transfer(inner=MiFgsm(eps=0.05, steps=5), surrogate=audiopure.load_recogniser("m5"), selection=1)
    result = attack(victim, waveform, labels, noise=SeededNoise(0), lengths=lengths)
    heard = score(victim, result.adversarial, labels, noise=SeededNoise(1))
    assert float(heard.float().mean()) <= 0.7
    assert torch.equal(heard[:, 0].float(), result.survived[0, 0])
