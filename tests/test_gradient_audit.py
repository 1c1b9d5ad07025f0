"""The audit catches every planted break and names it, accuses nobody else, and knows what is declared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from core_helpers import random_denoiser
from torch import Tensor, nn

import audiopure
from audiopure import InputError
from audiopure.cli import main as cli
from audiopure.defended import Defended
from audiopure.diffusion.denoiser import EpsConstant
from audiopure.diffusion.gradient import Identity, NetworkConstant, Recompute
from audiopure.diffusion.samplers import OneShot
from audiopure.evaluation.auditing.audit import THRESHOLD, AuditReport, audit
from audiopure.nets.m5 import DIGITS
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

NOISE = SeededNoise(3)
LENGTH = 4800
Function = Callable[[Tensor], Tensor]


def sound(clips: int = 1) -> Tensor:
    time = torch.arange(LENGTH) / 16_000
    tones = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (140, 700, 1900)]).sum(0)
    levels = torch.tensor([0.08, 0.03])[:clips, None]
    return levels * tones + 0.005 * NOISE.normal((clips, LENGTH), draw=9)


def examined(model: nn.Module, *, clips: int = 1, **settings: object) -> AuditReport:
    values = {"noise": NOISE, "draws": 1, "directions": 6, "probes": 2} | settings
    return audit(model, sound(clips), torch.tensor([4, 7])[:clips], **values)  # type: ignore[arg-type]


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function, bpda: bool = False):
        super().__init__()
        self.function, self.bpda = function, bpda

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """A denoiser, or a model, with code of one's own around it."""

    sample_rate, hop, receptive_field = 16_000, 1, 0

    def __init__(self, inner: nn.Module, code: Callable[..., Tensor]):
        super().__init__()
        self.inner, self.code = inner, code

    def forward(self, *arguments: object) -> Tensor:
        return self.code(self.inner, *arguments)


def m5() -> nn.Module:
    return audiopure.load_recogniser("m5")


def purifier(wrap: Callable[[nn.Module], nn.Module] = lambda net: net, **settings: object) -> Purifier:
    return Purifier(wrap(random_denoiser(width=8, blocks=1).float()), n_star=2, **settings)  # type: ignore[arg-type]


def behind(*parts: nn.Module) -> Defended:
    """A purifier before `parts` and the recogniser."""
    return audiopure.defend(nn.Sequential(*parts, m5()), purifier())


def around_denoiser(code: Callable[..., Tensor]) -> Defended:
    return audiopure.defend(m5(), purifier(lambda net: Around(net, code)))


def no_grad(net: nn.Module, x: Tensor, *rest: object) -> Tensor:
    with torch.no_grad():
        return net(x, *rest)


def inference(net: nn.Module, x: Tensor, *rest: object) -> Tensor:
    with torch.inference_mode():
        return net(x, *rest)


def last_step(net: nn.Module, x: Tensor, sigma: float, *rest: object) -> Tensor:
    return net(x, sigma, *rest).detach() if sigma < 0.015 else net(x, sigma, *rest)


def half_detached(net: nn.Module, x: Tensor, *rest: object) -> Tensor:
    return 0.5 * net(x, *rest) + 0.5 * x.detach()


def numpy_detour(x: Tensor) -> Tensor:
    return torch.from_numpy(0.9 * x.detach().cpu().numpy())


def numpy_outright(x: Tensor) -> Tensor:
    return torch.from_numpy(0.9 * x.numpy())


def round16(x: Tensor) -> Tensor:
    return (x * 32768).round() / 32768


def int16(x: Tensor) -> Tensor:
    return (x * 32767).to(torch.int16).to(x.dtype) / 32767


def straight_through(x: Tensor) -> Tensor:
    return x + (round16(x) - x).detach()


def answer(net: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.one_hot(net(x).argmax(1), 10).to(x.dtype)


PLANTED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "no_grad": (lambda: around_denoiser(no_grad), "purifier.denoiser", "no gradient"),
    "inference_mode": (lambda: around_denoiser(inference), "purifier.denoiser", "no gradient"),
    "detach": (lambda: behind(Do(Tensor.detach)), "model.0", "no gradient"),
    "detach in a container": (
        lambda: Around(behind(), lambda model, x: model(0.9 * x.detach())),
        "",
        "no gradient",
    ),
    "detach in one step": (lambda: around_denoiser(last_step), "purifier.denoiser", "no gradient"),
    "one of two branches": (lambda: around_denoiser(half_detached), "purifier.denoiser", "wrong gradient"),
    "rounding": (lambda: behind(Do(round16)), "model.0", "steps"),
    "coarse rounding": (lambda: behind(Do(lambda x: (x * 100).round() / 100)), "model.0", "steps"),
    "rounding one of two branches": (
        lambda: behind(Do(lambda x: 0.5 * x + 0.5 * round16(x))),
        "model.0",
        "steps",
    ),
    "straight-through rounding": (lambda: behind(Do(straight_through)), "model.0", "steps"),
    "int16": (lambda: behind(Do(int16)), "model.0", "steps"),
    "NumPy detour": (lambda: behind(Do(numpy_detour)), "model.0", "no gradient"),
    "NumPy outright": (lambda: behind(Do(numpy_outright)), "model.0", "error"),
    "sign": (lambda: behind(Do(torch.sign)), "model.0", "steps"),
    "argmax": (lambda: audiopure.defend(Around(m5(), answer), purifier()), "model", "steps"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_break_is_caught_and_its_module_named(planted: str) -> None:
    build, culprit, kind = PLANTED[planted]
    report = examined(build())
    assert report.verdict == "broken" and not report.passed
    assert [(found.name, found.kind) for found in report.modules] == [(culprit, kind)]
    # where one of two branches is rounded, the derivative is the gradient, almost everywhere
    assert report.cosine < THRESHOLD or (all(clip.rough for clip in report.clips) and "branches" in planted)


HONEST: dict[str, Callable[[], nn.Module]] = {
    "m5": m5,
    "noise only": lambda: audiopure.defend(m5(), purifier(reverse=False)),
    "purified": behind,
    "recomputed": lambda: audiopure.defend(m5(), purifier(gradient=Recompute())),
    "one-shot": lambda: audiopure.defend(m5(), purifier(sampler=OneShot())),
    "nested": lambda: nn.Sequential(Do(lambda x: 0.9 * x), audiopure.defend(behind(), purifier())),
    "in-place": lambda: behind(nn.Hardtanh(-0.1, 0.1, inplace=True)),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(LENGTH, 10)).eval()),
}


@pytest.mark.parametrize("honest", HONEST)
@pytest.mark.filterwarnings("ignore")  # of TorchScript
def test_an_honest_system_passes_and_no_module_is_accused(honest: str) -> None:
    report = examined(HONEST[honest](), clips=2 if honest == "m5" else 1)
    assert report.verdict == "exact" and report.modules == [] and report.precision == "float64"
    assert report.cosine > 1 - 1e-6 and report.sign_agreement == 1 and report.relative_error < 1e-3
    assert all(clip.along == pytest.approx(1, abs=1e-4) for clip in report.clips)


def test_modules_are_searched_at_least_where_the_whole_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, short = (examined(behind(Do(lambda x: x.detach())), thorough=how) for how in (True, False))
    assert short.verdict == "broken" and short.model_dump() == whole.model_dump()
    monkeypatch.setattr(
        "audiopure.evaluation.auditing.audit.find_breaks", lambda *a, **k: pytest.fail("searched")
    )
    assert examined(behind(), thorough=False).verdict == "exact"


def test_what_lies_beyond_the_clips_length_does_not_count() -> None:
    """A break that only padding sees is none of the attack's business."""
    short = LENGTH - 1000
    model = Around(m5(), lambda net, x: net(torch.cat([x[:, :short], x[:, short:].detach()], dim=1)))
    assert examined(model).verdict == "broken"
    report = examined(model, lengths=torch.tensor([short]))
    assert report.verdict == "exact" and report.modules == []


class Linear(nn.Module):
    """Logits (w x, -w x), w random; some of the samples are detached."""

    def __init__(self, detached: int = 0, spread: float = 0.0):
        super().__init__()
        self.detached, self.spread = detached, spread
        self.weight = nn.Parameter(NOISE.normal((1, LENGTH), draw=5)[0])

    def forward(self, x: Tensor, noise: SeededNoise | None = None) -> Tensor:
        assert noise is not None
        cut = torch.cat([x[:, : self.detached].detach(), x[:, self.detached :]], dim=1)
        weight = self.weight + self.spread * noise.normal((len(x), LENGTH), draw=0, dtype=x.dtype)
        value = (cut * weight).sum(1)
        return torch.stack([value, -value], -1)


@pytest.mark.parametrize("detached", [0, 200, 1000, 4000])
def test_the_cosine_is_that_of_the_two_gradients(detached: int) -> None:
    model = Linear(detached)
    truth = float(model.weight[detached:].detach().norm() / model.weight.detach().norm())
    report = audit(model, sound(), torch.tensor([1]), noise=NOISE, loss="margin", directions=300)
    assert report.families["random"].cosine == pytest.approx(truth, abs=3 * (1 - truth**2) / 300**0.5 + 1e-6)
    assert report.verdict == ("exact" if truth == 1 else "broken")
    assert report.clips[0].along == pytest.approx(1, rel=1e-4)  # along the gradient itself nothing is missing


def test_the_spread_of_gradients_suggests_an_eot_size() -> None:
    """For gradients w + s z of n samples the cosine of two is |w|^2 / (|w|^2 + n s^2) up to 1 / sqrt(n)."""
    model = Linear(spread=2.0)
    power = float(model.weight.detach().square().mean())
    share = power / (power + 4)
    report = audit(model, sound(), torch.tensor([1]), noise=NOISE, loss="margin", probes=6)
    assert report.verdict == "exact" and report.pairwise == pytest.approx(share, abs=0.02)
    assert report.eot is not None and 14 <= report.eot <= 22  # 0.81 / 0.19 * (1 - share) / share = 17
    fixed = audit(Linear(), sound(), torch.tensor([1]), noise=NOISE, loss="margin")
    assert (fixed.pairwise, fixed.eot, fixed.draws) == (1, 1, 1)


@pytest.mark.parametrize("route", ["network-constant", "identity", "forward-only"])
def test_a_route_that_is_no_derivative_is_labelled(route: str) -> None:
    report = examined(behind(), route=route)
    assert report.verdict == "declared" and report.passed and route in report.summary
    assert report.cosine < 0.9


@pytest.mark.parametrize("gradient", [NetworkConstant(), Identity()])
def test_what_a_purifier_declares_an_exact_attack_replaces(gradient: object) -> None:
    report = examined(audiopure.defend(m5(), purifier(gradient=gradient)))
    assert report.verdict == "exact"


def released(net: nn.Module, x: Tensor, *rest: object) -> Tensor:
    return x - (x - net(x, *rest)).detach()


@pytest.mark.parametrize("wrap", [EpsConstant, lambda net: Around(net, released)])
def test_the_released_gradient_in_disguise_is_broken(wrap: Callable[[nn.Module], nn.Module]) -> None:
    report = examined(audiopure.defend(m5(), purifier(wrap)))
    assert report.verdict == "broken" and report.cosine < 0.9
    assert [found.name for found in report.modules] == ["purifier.denoiser"]


def test_a_declared_module_excuses_itself_and_nobody_else() -> None:
    declared = Do(straight_through, bpda=True)
    report = examined(nn.Sequential(declared, m5()))
    assert report.verdict == "declared" and report.summary == "BPDA, declared: 0"
    assert [(found.name, found.declared) for found in report.modules] == [("0", True)]
    # in the code of a module that holds it, where the declared one is found first
    both = Around(nn.Sequential(declared), lambda inner, x: 0.5 * inner(x) + 0.5 * inner(x).detach())
    report = examined(nn.Sequential(both, m5()))
    assert report.verdict == "broken"
    assert [found.name for found in report.modules if not found.declared] == ["0"]
    report = examined(nn.Sequential(declared, Do(Tensor.detach), m5()))
    assert report.verdict == "broken" and not report.modules[1].declared


@pytest.mark.parametrize("hidden", [False, True])
def test_a_model_of_single_precision_is_audited_in_it(hidden: bool) -> None:
    model = m5()
    inside: list[nn.Module] = [model]  # what a list holds is not converted
    report = examined(Do(lambda x: inside[0](x.float())) if hidden else Around(model, single), clips=2)
    assert report.verdict == "exact" and report.modules == []
    if not hidden:
        assert report.precision == "float32" and "cannot run in float64" in str(report.fallback)
    broken = examined(nn.Sequential(Do(lambda x: numpy_detour(x).float()), m5()))
    assert broken.verdict == "broken" and broken.precision == "float32"
    assert [found.name for found in broken.modules] == ["0"]


def single(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.float())


def test_the_model_is_left_as_it_is() -> None:
    model = audiopure.defend(m5(), purifier(reverse=False))
    before = copy.deepcopy(model.state_dict())
    first, second = examined(model), examined(model)
    assert first == second and first != examined(model, noise=SeededNoise(4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(InputError, match="same sound and noise"):
        examined(nn.Sequential(nn.Dropout(0.5), m5()).train())
    with pytest.raises(InputError, match="gradient route"):
        examined(m5(), route="scenic")
    with pytest.raises(InputError, match="not finite"):
        examined(nn.Sequential(Do(lambda x: x / 0), m5()))
    with pytest.raises(InputError, match="label for each"):
        audit(m5(), sound(2), torch.tensor([4]), noise=NOISE)
    with pytest.raises(InputError, match="finite samples"):
        audit(m5(), 2 + sound(), torch.tensor([4]), noise=NOISE)
    with pytest.raises(InputError, match="at least one"):
        examined(m5(), directions=0)


def _labelled(*parts: nn.Module) -> nn.Module:
    model = nn.Sequential(*parts, m5())
    model.labels, model.sample_rate = DIGITS, 16_000  # type: ignore[assignment]
    return model


def broken_system() -> nn.Module:
    return _labelled(Do(round16))


def declared_system() -> nn.Module:
    return _labelled(Do(straight_through, bpda=True))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["audit", "--clips", "1", *arguments])
    return int(leaving.value.code or 0)


def test_the_command_says_it_by_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "audit", "audiopure.cli.audit")
    file = tmp_path / "new" / "audit.json"
    assert run("--system", "m5", "--json", str(file)) == 0
    assert "EXACT" in capsys.readouterr().out
    raw = json.loads(file.read_text())
    assert raw["schema"] == "audiopure-audit-1" and raw["verdict"] == "exact"
    assert AuditReport.model_validate(raw).cosine > 0.999
    assert run("--system", "test_gradient_audit:broken_system") == 1
    shown = capsys.readouterr().out
    assert "BROKEN" in shown and "0 (Do): steps" in shown
    assert run("--system", "test_gradient_audit:declared_system") == 0
    assert "BPDA" in capsys.readouterr().out
    for bad in (["--system", "nobody"], ["--system", "m5", "--route", "identity"], ["--data", str(tmp_path)]):
        assert run(*bad) == 2
