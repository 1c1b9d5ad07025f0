"""Denoisers and generators as defences, and the recipes that train them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audiopure import InputError, hub
from audiopure.data.synthetic import write_dataset
from audiopure.defences.learned import DefenceGan, Enhancer
from audiopure.evaluation.auditing.audit import audit
from audiopure.nets.conv_tasnet import ConvTasNet, GlobalNorm
from audiopure.nets.wavegan import Critic, Generator, WaveGan
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier
from audiopure.systems import load_system
from audiopure.training.enhancer import EnhancerConfig, EnhancerRecipe
from audiopure.training.enhancer import Network as TasNet
from audiopure.training.purifier import PurifierConfig, PurifierRecipe
from audiopure.training.recogniser import RecogniserConfig, RecogniserRecipe
from audiopure.training.together import Team
from audiopure.training.wavegan import WaveGanConfig, WaveGanRecipe

TINY: dict[str, Any] = {
    "filters": 16,
    "window": 32,
    "bottleneck": 8,
    "hidden": 12,
    "skip": 8,
    "blocks": 3,
    "repeats": 1,
}
RUN: dict[str, Any] = {"steps": 4, "batch": 4, "learning_rate": 1e-3}
SETTINGS: dict[str, Any] = RUN | {"background": "sc09"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "sc09", clips_per_label=3, seed=0)
    return folder


@pytest.fixture(scope="module")
def tasnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tasnet.safetensors"
    hub.save(ConvTasNet(**TINY), path, kind="enhancer", card={})
    return str(path)


def sounds(count: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(0))


def test_conv_tasnet_has_its_papers_size() -> None:
    """Counted from its hyperparameters; for two sources torchaudio's has 4,984,881 parameters."""
    n, window, b, h, s, p, x, r = 512, 16, 128, 512, 128, 3, 8, 3
    block = (b * h + h) + 1 + 2 * h + (h * p + h) + 1 + 2 * h + (h * b + b) + (h * s + s)
    last = h * b + b  # of the last block, which no other hears
    whole = 2 * n * window + 2 * n + (n * b + b) + x * r * block - last + 1 + (s * n + n)
    assert whole + (s * n + n) == 4_984_881
    with torch.device("meta"):
        net = ConvTasNet()
    assert sum(q.numel() for q in net.parameters()) == whole


def test_its_normalisation_is_group_normalisation_with_one_group() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gain, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 40, 5), (5,), (5,)))
    norm = GlobalNorm(5)
    norm.load_state_dict({"gain": gain, "bias": bias})
    expected = nn.functional.group_norm(x.mT, 1, gain, bias, eps=1e-8).mT
    torch.testing.assert_close(norm(x, torch.ones(3, 40, 1)), expected)
    torch.testing.assert_close(norm(x, None), expected)


@pytest.mark.parametrize("samples", [331, 512])
def test_it_is_the_network_of_its_paper(samples: int) -> None:
    """Written down once more with the layers that the paper names."""
    torch.manual_seed(0)
    net = ConvTasNet(**TINY).double()
    for weights in net.parameters():  # gains, biases and slopes that differ from where they begin
        weights.data.add_(0.1 * torch.randn_like(weights))
    w = net.state_dict()
    f, hop = nn.functional, TINY["window"] // 2
    x = sounds(2, samples).double()
    padded = f.pad(x, (hop, hop + -samples % hop))[:, None]
    code = f.conv1d(padded, w["encoder.weight"][:, None], stride=hop)

    def norm(h: Tensor, name: str) -> Tensor:
        return f.group_norm(h, 1, w[f"{name}.gain"], w[f"{name}.bias"], eps=1e-8)

    def mixed(h: Tensor, name: str) -> Tensor:
        return f.conv1d(h, w[f"{name}.weight"][:, :, None], w[f"{name}.bias"])

    h, total = mixed(norm(code, "norm"), "bottleneck"), torch.zeros(())
    last = TINY["blocks"] * TINY["repeats"] - 1
    for k in range(last + 1):
        at, dilation = f"blocks.{k}", 2 ** (k % TINY["blocks"])
        y = norm(f.prelu(mixed(h, f"{at}.enter"), w[f"{at}.first.weight"]), f"{at}.first_norm")
        kernels = w[f"{at}.along"][:, :, 0]
        reach = dilation * (kernels.shape[2] // 2)
        y = f.conv1d(y, kernels, w[f"{at}.along_bias"], 1, reach, dilation, groups=TINY["hidden"])
        y = mixed(norm(f.prelu(y, w[f"{at}.second.weight"]), f"{at}.second_norm"), f"{at}.leave")
        total = total + y[:, -TINY["skip"] :]
        h = h if k == last else h + y[:, : TINY["bottleneck"]]
    gate = torch.sigmoid(mixed(f.prelu(total, w["mask.0.weight"]), "mask.1"))
    clean = f.conv_transpose1d(code * gate, w["decoder.weight"].T[:, None], stride=hop)[:, 0]
    torch.testing.assert_close(net(x), clean[:, hop : hop + samples])


@pytest.mark.parametrize("lengths", [None, (600, 400)])
def test_it_trains_in_mixed_precision(lengths: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    net, x = ConvTasNet(**TINY), sounds(2, 600)
    samples = None if lengths is None else torch.tensor(lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x, samples)
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(
        found.float(), net(x, samples), rtol=0, atol=0.02 * float(found.detach().abs().max())
    )


@pytest.mark.parametrize("samples", [500, 512, 4097])
def test_an_enhancer_keeps_the_shape_and_hears_no_padding(samples: int) -> None:
    torch.manual_seed(0)
    defence = Enhancer(ConvTasNet(**TINY).eval())
    x = sounds(2, samples)
    found = defence(torch.cat([x, torch.ones(2, 300)], 1), lengths=torch.tensor([samples, samples - 100]))
    torch.testing.assert_close(found[0, :samples], defence(x)[0])
    torch.testing.assert_close(found[1, : samples - 100], defence(x[:, : samples - 100])[1])
    assert (found[0, samples:] == 0).all() and not defence.random
    with pytest.raises(InputError, match="window"):
        ConvTasNet(window=15)


def test_an_enhancer_is_a_part_of_a_system_with_exact_gradients(tasnet: str) -> None:
    system = load_system(f"{tasnet}+digits")
    assert tasnet in system.weights
    report = audit(
        system.model,
        sounds(1, 16_000),
        torch.tensor([3]),
        noise=SeededNoise(0),
        draws=1,
        probes=2,
        directions=6,
    )
    assert report.verdict == "exact", report.summary
    with pytest.raises(InputError, match="no setting n_star"):
        load_system(f"{tasnet},n_star=3+digits")


def test_the_generator_says_a_second_and_the_critic_judges_it() -> None:
    torch.manual_seed(0)
    words = Generator(width=2, latent=5)(torch.rand(3, 5) * 2 - 1)
    assert words.shape == (3, 16_384) and float(words.detach().abs().max()) <= 1
    critic = Critic(width=2)
    shuffled, again = critic(words), critic(words)
    assert shuffled.shape == (3,) and not torch.equal(shuffled, again)
    assert torch.equal(critic.eval()(words), critic(words))


def test_the_critics_shuffle_shifts_by_two_samples_at_most() -> None:
    h = torch.arange(20.0).repeat(200, 1, 1)
    torch.manual_seed(0)
    found = Critic(width=2)._shuffled(h)
    shifts = (found[:, 0, 10] - 10).tolist()
    assert set(shifts) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    for row, shift in zip(found[:, 0], shifts, strict=True):
        assert torch.equal(row[4:16], torch.arange(4.0, 16.0) + shift)


def test_defence_gan_finds_what_the_generator_has_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(width=4, latent=2).requires_grad_(False)
    for layer in generator.layers:
        layer.get_parameter("weight").mul_(6)
    whole = generator(torch.tensor([[0.3, -0.5], [-0.7, 0.2]]))
    said = whole[:, 192:16_192]  # as training hears a second: in the middle
    defence = DefenceGan(generator, restarts=6, steps=150)
    found = defence(said, noise=SeededNoise(0))
    assert float((found - said).norm() / said.norm()) < 0.1
    assert torch.equal(found, defence(said, noise=SeededNoise(0)))
    shorter = torch.cat([said[:1], torch.zeros(1, 16_000)])
    shorter[1, :12_001] = whole[1, 2192:14_193]
    lengths = torch.tensor([16_000, 12_001])
    found_shorter = defence(shorter, noise=SeededNoise(0), lengths=lengths)
    assert float((found_shorter - shorter).norm(dim=1).div(shorter.norm(dim=1)).max()) < 0.1
    other = sounds(2, 16_000)
    assert float((defence(other, noise=SeededNoise(0)) - other).norm()) > 0.5 * float(other.norm())
    point = said.clone().requires_grad_()
    (slope,) = torch.autograd.grad(defence(point, noise=SeededNoise(0)).sum(), point)
    assert torch.equal(slope, torch.ones_like(said)) and defence.bpda and defence.random
    with torch.inference_mode():  # as certificates ask
        assert torch.equal(defence(said, noise=SeededNoise(0)), found)
    with pytest.raises(InputError, match="16384 samples at most"):
        defence(sounds(1, 17_000))
    path = tmp_path / "words.safetensors"
    hub.save(generator, path, kind="generator", card={})
    assert load_system(f"{path},restarts=2,steps=3+digits").model.purifier.steps == 3  # type: ignore[union-attr]
    with pytest.raises(InputError, match="positive rate"):
        DefenceGan(generator, rate=float("inf"))


def test_defence_gan_comes_closer_with_every_step_that_counts() -> None:
    """At its default rate, which is far too large for these generators."""
    torch.manual_seed(1)
    clip = sounds(3, 16_000)
    for gain in (2, 6):
        generator = Generator(width=4, latent=8).requires_grad_(False)
        for layer in generator.layers:
            layer.get_parameter("weight").mul_(gain)
        said = generator(torch.rand(3, 8) * 2 - 1)[:, 192:16_192]
        for goal in (said, clip):
            left = []
            for steps in (1, 2, 4, 8, 16, 32, 64):
                found = DefenceGan(generator, restarts=1, steps=steps)(goal, noise=SeededNoise(0))
                left.append((found - goal).square().mean(1))
            errors = torch.stack(left)
            assert (errors.diff(dim=0) <= 1e-6 * errors[:-1]).all(), errors
            assert (errors[-1] < 0.9 * errors[0]).all() or goal is clip, errors


def test_the_penalty_wants_a_critic_of_slope_one_and_turns_alternate(root: Path) -> None:
    recipe = WaveGanRecipe(WaveGanConfig(width=2, latent=5, turns=2, **RUN), root)
    model = recipe.build()
    assert isinstance(model, WaveGan)
    for step, generator_learns in ((0, False), (1, True)):
        model.zero_grad(set_to_none=True)
        recipe.loss(model, recipe.batch(step)).backward()
        assert all(p.grad is not None for p in model.critic.parameters())
        assert all((p.grad is not None) is generator_learns for p in model.generator.parameters())
    real, z, between, step_number = recipe.batch(0)
    assert real.shape == (4, 16_384) and z.abs().max() <= 1

    class Slope(Critic):
        """A linear critic of a given slope: the loss is then its penalty, and means that cancel."""

        size = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.size * x.mean(1) * x.shape[1] ** 0.5

    model.critic = Slope(width=2)
    generator = model.generator
    assert isinstance(generator, Generator)
    means = generator(z).mean() - real.mean()
    for size in (1.0, 3.0):
        model.critic.size = size
        expected = size * means * 128 + 10 * (size - 1) ** 2
        found = recipe.loss(model, (real, z, between, step_number))
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-3, abs=1e-3)
    scores = recipe.validate(recipe.build().eval())
    assert recipe.validate(recipe.build().eval()).keys() == {"score", "loss", "critic"}
    assert scores["loss"] == -scores["score"]
    blind = recipe.build().eval()
    assert isinstance(blind, WaveGan)
    for parameter in blind.critic.parameters():
        nn.init.zeros_(parameter)
    # a critic that says 0 of everything has no slope, and the penalty wants one of 1
    assert recipe.validate(blind)["critic"] == pytest.approx(10, rel=1e-4)
    assert 1 <= scores["score"] <= 10 and isinstance(recipe.product(recipe.build()), Generator)


@pytest.mark.parametrize("added", ["noise", "attack"])
def test_an_enhancer_learns_from_speech_and_what_was_added(added: Any, root: Path) -> None:
    recipe = EnhancerRecipe(EnhancerConfig(tasnet=TasNet(**TINY), added=added, inner=3, **SETTINGS), root)
    heard, clean = recipe.batch(1)
    apart = (heard - clean).abs()
    if added == "attack":
        assert 0 < float(apart.max()) <= 0.002 + 1e-7
        answers = [
            nn.functional.cross_entropy(recipe.recogniser(x), recipe.corpus.targets[recipe.items(1)])
            for x in (heard, clean)
        ]
        assert answers[0] > answers[1]
    else:
        assert (apart.amax(1) > 0.002).all()
    again = EnhancerRecipe(recipe.config, root)
    again.batch(0)
    assert all(torch.equal(a, b) for a, b in zip(again.batch(1), (heard, clean), strict=True))

    class Leaves(nn.Module):
        def __init__(self, found: Tensor):
            super().__init__()
            self.found = found

        def forward(self, x: Tensor) -> Tensor:
            return self.found

    # nothing gone is 0, a tenth of the amplitude left is -20 dB
    assert float(recipe.loss(Leaves(heard), (heard, clean))) == pytest.approx(0, abs=0.02)
    tenth = clean + 0.1 * (heard - clean)
    assert float(recipe.loss(Leaves(tenth), (heard, clean))) == pytest.approx(-4.5, abs=0.1)
    scores = recipe.validate(recipe.build().eval())
    assert set(scores) == {"score", "accuracy", "loss"}
    assert scores["score"] == pytest.approx(-10 / math.log(10) * scores["loss"])


@pytest.mark.parametrize("method", ["pgd", "trades", "ssp"])
@pytest.mark.parametrize(("what", "sampler"), [("small", "one-shot"), ("small", "ddpm"), ("tasnet", "ddpm")])
def test_a_defence_learns_through_a_recogniser_that_stays(
    method: Any, what: str, sampler: str, root: Path, tasnet: str
) -> None:
    initial = tasnet if what == "tasnet" else "small"
    config = PurifierConfig(method=method, initial=initial, inner=2, n_star=2, sampler=sampler, **SETTINGS)
    recipe = PurifierRecipe(config, root)
    model = recipe.build().train()
    before = {name: p.clone() for name, p in recipe.recogniser.named_parameters()}
    recipe.loss(model, recipe.batch(0)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in recipe.recogniser.named_parameters())
    front = recipe.front(model)
    assert isinstance(front, Purifier if what == "small" else Enhancer)
    known = {"small": "denoiser", "tasnet": "enhancer"}
    assert recipe.kind == known[what] and recipe.product(model) is model


def test_words_in_another_order_are_refused(root: Path, tmp_path: Path) -> None:
    """A recogniser's answers would be taken for other words than it means."""
    folder = tmp_path / "sc09"
    shutil.copytree(root / "sc09", folder)
    manifest = folder / "manifest.csv"
    head, *lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([head, *reversed(lines)]) + "\n")
    for recipe in (
        lambda: EnhancerRecipe(EnhancerConfig(tasnet=TasNet(**TINY), **SETTINGS), tmp_path),
        lambda: PurifierRecipe(PurifierConfig(**SETTINGS), tmp_path),
        lambda: RecogniserRecipe(RecogniserConfig(initial="digits", **SETTINGS), tmp_path).build(),
    ):
        with pytest.raises(InputError, match="another order"):
            recipe()


def test_processes_draw_noise_of_their_own() -> None:
    given = SeededNoise(3).fresh(7)
    draws = [Team(rank, 4).own(given).normal((2, 50), draw=0) for rank in range(4)]
    assert torch.equal(draws[0], given.normal((2, 50), draw=0))
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 4


def test_purified_clips_are_heard_as_the_system_hears_them(root: Path) -> None:
    recipe = PurifierRecipe(PurifierConfig(n_star=3, **SETTINGS), root)
    clips, noise = sounds(2, 16_000), SeededNoise(0)
    system = load_system("small+digits").model
    assert torch.equal(recipe.hear(recipe.build(), clips, noise), system(clips, noise=noise))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"initial": "digits"}, "holds a recogniser"),
        ({"defence": "low-pass"}, "no other `defence`"),
        ({"sampler": "fastest"}, "no sampler"),
    ]
    for settings, message in refused:
        with pytest.raises(InputError, match=message):
            PurifierRecipe(PurifierConfig(**SETTINGS, **settings), root).front(hub.load("small"))


def test_attacked_clips_are_kept_and_those_of_another_origin_are_not_used(root: Path, tmp_path: Path) -> None:
    """A resumed run reads what the killed one made; what was cut short or is foreign is made again."""

    def recipe(**changes: Any) -> EnhancerRecipe:
        settings = SETTINGS | {"added": "attack", "inner": 2, "tasnet": TasNet(**TINY)} | changes
        made = EnhancerRecipe(EnhancerConfig(**settings), root)
        made.keep_in(tmp_path)
        return made

    first = recipe()
    batches, heard = [first.batch(step) for step in range(3)], first.heard
    kept = tmp_path / "crafted"
    files = sorted(path.name for path in kept.iterdir())
    assert files == ["train-0.safetensors", "validation.safetensors"]

    again = recipe()
    again._attacked = lambda *_: pytest.fail("attacked again")  # type: ignore[method-assign]
    for step, batch in enumerate(batches):
        assert all(torch.equal(a, b) for a, b in zip(again.batch(step), batch, strict=True))
    assert torch.equal(again.heard, heard)

    other = recipe(eps=0.001)
    spoiled, clean = other.batch(0)
    assert float((spoiled - clean).abs().max()) <= 0.001 + 1e-7
    path = kept / "train-0.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert all(torch.equal(a, b) for a, b in zip(recipe().batch(0), batches[0], strict=True))


def test_what_a_purifier_is_to_give_back_has_no_noise_added(root: Path, tasnet: str) -> None:
    recipe = PurifierRecipe(PurifierConfig(initial=tasnet, noise=0.5, **SETTINGS), root)
    wave, _, _ = recipe.batch(0)
    clean, _, _ = recipe.augmented(0, noisy=False)
    noisy, _, _ = recipe.augmented(0)
    assert torch.equal(wave, clean.clamp(-1, 1)) and not torch.equal(wave, noisy.clamp(-1, 1))


def test_ssp_is_judged_by_what_it_minimises(root: Path, tasnet: str) -> None:
    for method, judged in (("ssp", False), ("pgd", True)):
        config = PurifierConfig(method=method, initial=tasnet, inner=1, **SETTINGS)  # type: ignore[arg-type]
        recipe = PurifierRecipe(config, root)
        found = recipe.validate(recipe.build().eval())
        accuracies = [value for name, value in found.items() if name.startswith("accuracy")]
        assert found["score"] == pytest.approx(np.mean(accuracies) if judged else -found["loss"])
        terms = [found[name] for name in ("audio", "feature") if name in found]
        assert judged or found["loss"] == pytest.approx(sum(terms), rel=1e-4)
        assert len(terms) == (0 if judged else 2)


def test_ssp_is_s25_on_clips_that_s23_and_s24_perturb(root: Path, tasnet: str) -> None:
    class Half(nn.Module):
        """A purifier that halves, and remembers what it was given."""

        sample_rate = 16_000

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            self.heard = x
            return x / 2

    settings = SETTINGS | {"method": "ssp", "initial": tasnet, "feature": 0.3, "budgets": {"linf": 0.002}}
    recipe = PurifierRecipe(PurifierConfig(inner=20, **settings), root)
    wave, targets, step = recipe.batch(0)
    half = Half()
    loss = float(recipe.loss(half, (wave, targets, step)))
    found = half.heard
    assert float((found - wave).abs().max()) <= 0.002 + 1e-7
    distance = [(recipe.mel(x) - recipe.mel(wave)).abs().amax((1, 2)) for x in (found, wave + 0.002)]
    random = wave + 0.002 * torch.rand(wave.shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    distance.append((recipe.mel(random.clamp(-1, 1)) - recipe.mel(wave)).abs().amax((1, 2)))
    assert (distance[0] > 2 * distance[1]).all() and (distance[0] > 2 * distance[2]).all()
    audio = (found / 2 - wave).double().square().sum() / wave.numel()
    # half of the amplitude is a quarter of the power
    known = recipe.mel(wave).double()
    feature = (recipe.mel(found).double() / 4 - known).square().sum() / known.numel()
    assert loss == pytest.approx(float(audio + 0.3 * feature), rel=1e-4)
