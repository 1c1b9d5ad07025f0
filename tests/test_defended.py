"""Defending a model: same inputs and outputs, exact gradients, and all that is done with modules."""

from __future__ import annotations

import copy
import io
import pickle
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.distributed as dist
from core_helpers import random_denoiser, signal
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from audiopure.defended import Defended, defend
from audiopure.errors import InputError
from audiopure.frontend import LogMel, MelSpectrogram
from audiopure.level import SpeechLevel
from audiopure.noise import SecretNoise, SeededNoise
from audiopure.purifier import Purifier

NOISE = SeededNoise(4)


class Recogniser(nn.Module):
    """Masked energies of learnt bands: sensitive to every sample, blind to padding."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.bands = nn.Conv1d(1, 8, 31, padding=15)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, classes)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        energy = torch.tanh(self.bands(waveform[:, None]))
        if lengths is not None:
            inside = torch.arange(waveform.shape[1]) < lengths[:, None]
            energy = (energy * inside[:, None]).sum(-1) / lengths[:, None]
        else:
            energy = energy.mean(-1)
        return self.out(self.norm(energy))


def model(seed: int = 0) -> Recogniser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Recogniser().double().eval()


def defended(seed: int = 0, **settings) -> Defended:
    return defend(model(seed), Purifier(random_denoiser(seed), level=SpeechLevel()), **settings).eval()


def test_it_is_the_model_on_the_purified_waveform():
    protected, x = defended(), signal(2, 600)
    with protected.replay(NOISE):
        out = protected(x)
    assert torch.equal(out, protected.model(protected.purifier(x, noise=NOISE)))
    assert torch.equal(protected(x, noise=NOISE), out)


def test_the_model_is_neither_copied_nor_changed():
    plain = model()
    before = copy.deepcopy(plain.state_dict())
    protected = defend(plain, Purifier(random_denoiser()))
    protected(signal(2, 600)).sum().backward()
    assert protected.model is plain
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_replay_is_bit_for_bit_and_ends_with_its_context():
    protected, x = defended(), signal(2, 600)
    with protected.replay(NOISE) as same:
        first, second = same(x), same(x)
        with protected.replay(NOISE.fresh(1)):
            other = protected(x)
        third = protected(x)
    assert torch.equal(first, second) and torch.equal(first, third)
    assert not torch.equal(first, other)
    assert not torch.equal(protected(x), first)


def test_replay_ends_even_after_an_error():
    protected = defended()
    with pytest.raises(InputError), protected.replay(NOISE):
        protected(torch.zeros(0))
    assert not torch.equal(protected(signal(1, 300)), protected(signal(1, 300)))


def test_noise_is_fresh_and_secret_in_use():
    protected, x = defended(), signal(1, 300)
    assert not torch.equal(protected(x), protected(x))
    with protected.replay(SecretNoise(123456789)):
        assert "123456789" not in repr(protected)


def test_the_exact_gradient_equals_finite_differences():
    protected, x = defended(), signal(2, 500)
    target = torch.tensor([0, 2])

    def loss(at: Tensor) -> Tensor:
        return nn.functional.cross_entropy(protected(at, noise=NOISE), target)

    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(y), y)
    for seed in (1, 2, 3):
        direction = signal(2, 500, seed, scale=1.0)
        width = 1e-5
        with torch.no_grad():
            near = loss(x + width * direction) - loss(x - width * direction)
            far = loss(x + 2 * width * direction) - loss(x - 2 * width * direction)
        measured = float(8 * near - far) / (12 * width)
        assert abs(float((gradient * direction).sum()) - measured) < 1e-7 * float(
            gradient.norm() * direction.norm()
        )


def test_lengths_reach_the_purifier_and_the_model():
    protected, x = defended(), signal(2, 600)
    lengths = torch.tensor([600, 250])
    out = protected(x, lengths=lengths, noise=NOISE)
    alone = protected(x[1:, :250], lengths=lengths[1:], noise=NOISE.for_items([1]))
    torch.testing.assert_close(out[1:], alone, rtol=1e-9, atol=1e-12)
    x[1, 250:] = 0.5
    assert torch.equal(protected(x, lengths=lengths, noise=NOISE), out)


class Tells(nn.Module):
    """Returns the lengths it was given."""

    def forward(self, waveform: Tensor, *, lengths: Tensor | None = None) -> Tensor | None:
        return lengths


class Collects(nn.Module):
    """Returns all that it was given, and names nothing of it."""

    def forward(self, waveform: Tensor, **kwargs: object) -> dict[str, object]:
        return kwargs


def test_lengths_reach_a_model_only_if_it_names_them_and_counts_samples():
    purifier, x, lengths = Purifier(random_denoiser()), signal(2, 300), torch.tensor([300, 200])
    compiled = torch.compile(Tells(), backend="eager")
    for tells in (Tells(), nn.DataParallel(Tells()), cast(nn.Module, compiled)):
        assert defend(tells, purifier)(x, lengths=lengths) is lengths
    assert defend(Tells(), purifier, frontend=nn.Identity())(x, lengths=lengths) is None
    assert defend(Collects(), purifier)(x, lengths=lengths) == {}
    assert defend(nn.DataParallel(Collects()), purifier)(x, lengths=lengths) == {}


class Chatty(nn.Module):
    sample_rate = 16_000

    def forward(self, audio: Tensor, scale: float, *, flag: bool = False) -> SimpleNamespace:
        return SimpleNamespace(audio=audio * scale, flag=flag)


def test_other_arguments_and_outputs_pass_unchanged():
    purifier, x = Purifier(random_denoiser()), signal(1, 300)
    out = defend(Chatty(), purifier)(x, 2.0, flag=True, noise=NOISE)
    assert out.flag is True
    torch.testing.assert_close(out.audio, 2 * purifier(x, noise=NOISE))


@pytest.mark.parametrize("bad", [torch.zeros(4, dtype=torch.int16), "a.wav", None])
def test_something_else_than_a_waveform_is_refused(bad):
    with pytest.raises(InputError, match="first argument"):
        defended()(bad)


def test_something_else_than_a_module_is_refused():
    with pytest.raises(InputError, match=r"needs a torch\.nn\.Module, got function"):
        defend(lambda x: x, Purifier(random_denoiser()))  # type: ignore[arg-type]


# --- how modules are handled --------------------------------------------------------------------------------


def test_state_dicts_round_trip():
    one, two, x = defended(0), defended(1), signal(2, 400)
    expected = one(x, noise=NOISE)
    assert not torch.allclose(two(x, noise=NOISE), expected)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(two(x, noise=NOISE), expected)


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_behave_alike_and_share_nothing(copier):
    protected, x = defended(), signal(2, 400)
    twin = copier(protected)
    assert torch.equal(twin(x, noise=NOISE), protected(x, noise=NOISE))
    ours = {p.data_ptr() for p in protected.parameters()}
    assert not ours & {p.data_ptr() for p in twin.parameters()}


def test_copies_do_not_keep_the_noise_of_a_replay():
    protected, x = defended(), signal(1, 300)
    with protected.replay(SecretNoise(123456789)):
        stored, twin = pickle.dumps(protected), copy.deepcopy(protected)
        expected = protected(x)
    for other in (twin, pickle.loads(stored)):
        assert not torch.equal(other(x), expected)
        assert not torch.equal(other(x), other(x))


def test_train_and_eval_reach_both_parts():
    protected = defended().train()
    assert protected.model.training and protected.purifier.training
    before = protected.model.norm.running_mean.clone()  # type: ignore[union-attr]
    protected(signal(4, 300))
    assert not torch.equal(protected.model.norm.running_mean, before)  # type: ignore[union-attr]
    assert not protected.eval().purifier.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_moves_to_other_types(dtype):
    protected, x = defended(), signal(2, 600)
    exact = protected(x, noise=NOISE)
    out = protected.to(dtype)(x.to(dtype), noise=NOISE)
    assert out.dtype == dtype
    tolerance = 1e-3 if dtype == torch.float32 else 0.3
    assert float(((out.double() - exact).norm() / exact.norm()).detach()) < tolerance


def test_parameters_are_those_of_the_model_and_the_network():
    protected = defended()
    names = {name.split(".")[0] for name, _ in protected.named_parameters()}
    assert names == {"model", "purifier"}
    trainable = {name for name, p in protected.named_parameters() if p.requires_grad}
    assert trainable and all(name.startswith("model.") for name in trainable)


def test_distributed_data_parallel_trains_the_model_behind_it(tmp_path):
    place = (tmp_path / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        protected, x = defended(), signal(2, 400)
        wrapped = DistributedDataParallel(copy.deepcopy(protected))
        lengths = torch.tensor([400, 300])
        out = wrapped(x, lengths=lengths, noise=NOISE)
        torch.testing.assert_close(out, protected(x, lengths=lengths, noise=NOISE))
        out.square().sum().backward()
        protected(x, lengths=lengths, noise=NOISE).square().sum().backward()
        for ours, theirs in zip(wrapped.module.model.parameters(), protected.model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    finally:
        dist.destroy_process_group()


# --- other rates and features -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_sample_rates_are_purified_at_the_working_rate(rate):
    protected = defended(sample_rate=rate)
    time = torch.arange(2000, dtype=torch.float64) / rate
    tone = 0.3 * torch.sin(2 * torch.pi * 1000 * time)[None]

    class Same(nn.Module):
        sample_rate, hop, receptive_field = 16_000, 1, 0

        def forward(self, x: Tensor, sigma: float | Tensor, lengths: Tensor | None = None) -> Tensor:
            return x

    unchanged = defend(model(), Purifier(Same(), n_star=0), sample_rate=rate).purify(tone)
    torch.testing.assert_close(unchanged[:, 300:-300], tone[:, 300:-300], atol=2e-3, rtol=0)
    y = tone.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((protected(y, noise=NOISE) ** 2).sum(), y)
    direction = signal(1, 2000, 7, 1.0)
    with torch.no_grad():
        ends = [float((protected(tone + s * 1e-6 * direction, noise=NOISE) ** 2).sum()) for s in (1, -1)]
    measured = (ends[0] - ends[1]) / 2e-6
    size = float(gradient.norm() * direction.norm())
    assert size > 0 and abs(float((gradient * direction).sum()) - measured) < 1e-5 * size


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_items_of_a_padded_batch_equal_the_items_alone_at_any_rate(rate):
    protected = defended(sample_rate=rate)
    x, lengths = signal(3, 1501), torch.tensor([1501, 700, 5])
    x[1, 700:] = 0.7
    out = protected.purify(x, lengths=lengths, noise=NOISE)
    for item, n in enumerate(lengths.tolist()):
        alone = protected.purify(x[item : item + 1, :n], noise=NOISE.for_items([item]))
        torch.testing.assert_close(out[item, :n], alone[0], rtol=1e-9, atol=1e-11)
        assert not out[item, n:].any()


@pytest.mark.parametrize("length", [1, 3, 5, 441, 44105])
def test_any_length_comes_back_at_its_own_length(length):
    protected = defended(sample_rate=44_100)
    assert protected.purify(signal(1, length)).shape == (1, length)


def test_the_models_own_rate_is_used():
    plain = model()
    plain.sample_rate = 8000  # type: ignore[assignment]
    assert defend(plain, Purifier(random_denoiser())).sample_rate == 8000
    assert defend(model(), Purifier(random_denoiser())).sample_rate == 16_000


def test_a_front_end_stands_between_the_purifier_and_the_model():
    front = LogMel(MelSpectrogram(n_fft=256, hop=128, n_mels=12)).double()
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(2, dtype=torch.float64))
    protected = defend(head, Purifier(random_denoiser()), frontend=front)
    x = signal(2, 1000).requires_grad_()
    out = protected(x, noise=NOISE)
    assert torch.equal(out, head(front(protected.purifier(x, noise=NOISE))))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(gradient.isfinite().all()) and float(gradient.norm()) > 0
