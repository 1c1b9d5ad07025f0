"""Purification of spectrograms: the U-Net, its noise levels, gradients, and its place in a system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import audiopure
from audiopure import InputError, hub
from audiopure.attacks import Pgd
from audiopure.data.synthetic import write_dataset
from audiopure.defended import Defended
from audiopure.diffusion.denoiser import EpsDenoiser
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.evaluation.auditing.audit import audit
from audiopure.evaluation.lineup import controls
from audiopure.nets.mel_resnet import MelResNet
from audiopure.nets.mel_unet import MelUNet
from audiopure.nets.unet import UNet
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.spectral import SpectralDefended, load_spectral_purifier
from audiopure.systems import load_system
from audiopure.training import spectrum
from audiopure.training.spectrum import Network, SpectrumConfig, SpectrumRecipe

SMALL = {"width": 8, "multiples": (1, 2), "blocks": 1, "attention": (1,), "heads": 2, "dropout": 0.0}


def recogniser() -> MelResNet:
    torch.manual_seed(0)
    return MelResNet(labels=("no", "yes"), width=4, mels=16).eval().requires_grad_(False)


def network(model: MelResNet) -> MelUNet:
    """With an output layer that says something, which training starts without."""
    torch.manual_seed(1)
    net = MelUNet(frontend=model.frontend.config, low=-35.0, high=40.0, network=SMALL).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return net.requires_grad_(False)


def purifier(net: nn.Module, n_star: float = 3) -> Purifier:
    return Purifier(EpsDenoiser(net, NoiseSchedule.linear()), n_star=n_star)


def clips(count: int = 2) -> Tensor:
    return 0.1 * torch.randn(count, 16_000, generator=torch.Generator().manual_seed(0))


def test_the_papers_network_has_the_published_size() -> None:
    with torch.device("meta"):
        net = UNet()
    assert sum(p.numel() for p in net.parameters()) == 52_538_369
    assert len(net.state_dict()) == 446


def test_a_new_network_sees_no_noise_and_pads_what_it_cannot_halve() -> None:
    net = UNet(width=8, multiples=(1, 2, 2), blocks=1, attention=(2,), heads=2)
    for wrong in ({"multiples": (0, 1)}, {"attention": (7,)}, {"heads": 3}):
        with pytest.raises(InputError):
            UNet(**{"width": 8, **wrong})
    x = torch.randn(3, 10, 13)
    found = net(x, torch.tensor([0.0, 2.0, 7.5]))
    assert found.shape == x.shape and torch.equal(found, torch.zeros_like(x))


def test_spectrograms_are_scaled_to_one_and_back() -> None:
    net = MelUNet(frontend=recogniser().frontend.config, low=-30.0, high=10.0, network=SMALL)
    decibel = torch.tensor([-30.0, -10.0, 10.0]).repeat(1, 16, 1)
    scaled = net.scaled(decibel)
    torch.testing.assert_close(scaled.unflatten(1, (16, -1))[0, 0], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(net.decibel(scaled), decibel)
    with pytest.raises(InputError, match="below high"):
        MelUNet(frontend=recogniser().frontend.config, low=1.0, high=1.0, network=SMALL)


def test_the_sampler_asks_the_network_for_the_steps_it_was_trained_on() -> None:
    """Unlike the paper's released code, which adds less noise and asks for steps 3, 2, 1."""
    model = recogniser()
    net, asked = network(model), []
    net.register_forward_pre_hook(lambda module, given: asked.append(given[1].tolist()))
    SpectralDefended(model, purifier(net))(clips(), noise=SeededNoise(0))
    assert [[round(i, 9) for i in row] for row in asked] == [[2, 2], [1, 1], [0, 0]]


def test_forward_noise_alone_is_that_of_the_schedule() -> None:
    model = recogniser()
    heard: list[Tensor] = []

    class Ear(MelResNet):
        def from_log_mel(self, decibel: Tensor) -> Tensor:
            heard.append(decibel)
            return super().from_log_mel(decibel)

    ear = Ear(labels=model.labels, width=4, mels=16).eval()
    net = network(model)
    alone = purifier(net, 5).replace(reverse=False)
    SpectralDefended(ear, alone)(clips(40), noise=SeededNoise(0))
    apart = net.scaled(heard[0]) - net.scaled(ear.frontend(clips(40)))
    assert float(apart.std()) == pytest.approx(NoiseSchedule.linear().sigma(5), rel=0.02)
    quiet = SpectralDefended(ear, purifier(net, 0))
    torch.testing.assert_close(quiet(clips()), ear(clips()), rtol=1e-4, atol=1e-4)


def test_gradients_are_exact_and_noise_replays_alone_and_behind_another_defence() -> None:
    model = recogniser()
    spectral = SpectralDefended(model, purifier(network(model)))
    report = audit(
        spectral, clips(), torch.tensor([0, 1]), noise=SeededNoise(0), draws=1, directions=6, probes=2
    )
    assert report.verdict == "exact", report.summary
    both = Defended(spectral, audiopure.load_purifier("small", n_star=2).replace(reverse=False))
    for defended in (spectral, both):
        first, again, other = (defended(clips(), noise=SeededNoise(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)
        with defended.replay(SeededNoise(0)):
            assert torch.equal(defended(clips()), first)
        assert not torch.equal(defended(clips()), defended(clips()))
    attack = Pgd(norm="linf", eps=0.01, steps=3, eot=2, bits=None)
    result = attack(both, clips(), torch.tensor([0, 1]), noise=SeededNoise(0))
    assert torch.equal(
        result.adversarial, attack(both, clips(), torch.tensor([0, 1]), noise=SeededNoise(0)).adversarial
    )


def test_a_padded_clip_is_answered_as_alone() -> None:
    model = recogniser()
    spectral = SpectralDefended(model, purifier(network(model)))
    padded = torch.cat([clips(1)[:, :9000], torch.ones(1, 7000)], 1)
    alone = spectral(padded[:, :9000], noise=SeededNoise(0))
    torch.testing.assert_close(spectral(padded, lengths=torch.tensor([9000]), noise=SeededNoise(0)), alone)


def test_training_estimates_the_noise_of_the_schedules_steps(tmp_path: Path) -> None:
    write_dataset(tmp_path / "sc09", clips_per_label=3, seed=0)
    settings = {"steps": 4, "batch": 4, "learning_rate": 1e-3, "background": None, "latest": 10}
    recipe = SpectrumRecipe(SpectrumConfig(unet=Network(**SMALL), **settings), tmp_path)
    net = recipe.build()
    assert isinstance(net, MelUNet)
    wave, index, noise = recipe.batch(0)
    clean, _, _ = recipe.augmented(0, noisy=False)
    assert torch.equal(wave, clean)  # noise in the data would be kept as speech
    assert ((index >= 0) & (index < 10)).all() and noise.shape == (4, 64 * 101)
    # a new network's answer is zero, and so its error the noise's own power
    assert recipe.loss(net, (wave, index, noise)).item() == pytest.approx(
        float(noise.square().mean()), rel=1e-5
    )

    class Knows(nn.Module):
        """Tells the noise, as it knows that every clip is silent."""

        scaled = staticmethod(net.scaled)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            kept = torch.tensor([NoiseSchedule.linear().alpha_bar(int(i) + 1) for i in index])[:, None]
            silent = net.scaled(torch.full((len(x), 64, 101), 10 * torch.log10(torch.tensor(3e-4)).item()))
            return (x - kept.sqrt() * silent) / (1 - kept).sqrt()

    assert float(recipe.loss(Knows(), (torch.zeros_like(wave), index, noise))) < 1e-6
    scores = recipe.validate(net)
    assert set(scores) == {"score", "loss", *(f"error_{n}" for n in (1, 2, 3, 5, 10))}
    with pytest.raises(InputError, match="no log-mel"):
        SpectrumRecipe(SpectrumConfig(network="m5", **settings), tmp_path)


def test_validation_hears_what_the_network_purifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From which n* is chosen, on clips of the validation split."""
    monkeypatch.setattr(spectrum, "HELD_OUT", 6)
    monkeypatch.setattr(spectrum, "PURIFIED", (1, 3))
    write_dataset(tmp_path / "sc09", clips_per_label=3, seed=0)
    settings = {"steps": 4, "batch": 4, "learning_rate": 1e-3, "latest": 3, "recogniser": "digits"}
    recipe = SpectrumRecipe(SpectrumConfig(unet=Network(**SMALL), **settings), tmp_path)
    net, listener = recipe.build(), recipe.recogniser
    assert isinstance(net, MelUNet) and listener is not None and len(recipe.held_out) == 6
    scores = recipe.validate(net)
    assert {name for name in scores if name.startswith("accuracy")} == {"accuracy_1", "accuracy_3"}
    system = SpectralDefended(listener, purifier(net, 3))
    answers = system(recipe.held_out, noise=SeededNoise(0).fresh(0)).argmax(1)
    assert scores["accuracy_3"] == pytest.approx(float((answers == recipe.targets).float().mean()))
    with pytest.raises(InputError, match="other spectrograms"):
        SpectrumRecipe(SpectrumConfig(network="resnext29", **settings), tmp_path)


def test_it_is_a_part_of_a_system(tmp_path: Path) -> None:
    bare = audiopure.load_recogniser("digits")
    front: Any = bare.frontend.config  # type: ignore[union-attr]
    net = MelUNet(frontend=front, low=-35.0, high=40.0, network=SMALL, latest=50)
    path = tmp_path / "diffspec.safetensors"
    hub.save(net, path, kind="spectrum", card={})
    system = load_system(f"small,reverse=no+{path},sampler=one-shot,n_star=2+digits")
    assert system.defended and len(system.labels) == 10 and str(path) in system.weights
    assert system.model(clips(), noise=SeededNoise(0)).shape == (2, 10)
    rows = [key for key, _, _ in controls(load_system(f"{path}+digits"))]
    assert rows == ["none", "noise-only", "reverse-only"]
    for bad in (clips().to(torch.int16), clips()[0], clips()[:, :0]):
        with pytest.raises(InputError, match="floating-point waveforms"):
            load_system(f"{path}+digits").model(bad)
    with pytest.raises(InputError, match="1 lengths"):
        load_system(f"{path}+digits").model(clips(), lengths=torch.tensor([5]))
    for spec, message in (
        (f"{path},n_star=60+digits", "trained for n_star up to 50"),
        (f"{path},level=speech+digits", "no setting level"),
        (f"{path}+m5", "no log-mel"),
        (f"{path}+small+digits", "no log-mel"),
    ):
        with pytest.raises(InputError, match=message):
            load_system(spec)
    with pytest.raises(InputError, match="another front end"):
        SpectralDefended(recogniser(), load_spectral_purifier(path))
    with pytest.raises(InputError, match="purifier of waveforms"):
        SpectralDefended(bare, audiopure.load_purifier("small"))
    with pytest.raises(InputError, match="no purifier"):
        audiopure.certify(f"{path}+digits", denoise="one-shot", n=100, limit=1)
