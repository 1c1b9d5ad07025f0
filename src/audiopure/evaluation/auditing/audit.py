"""The gradient audit: is what an attack climbs the derivative of what it is judged by?

A defence whose gradient is cut, rounded away or approximated looks strong because attacks climb the wrong
hill (Athalye et al. 2018). The audit compares the attack's gradient with central finite differences of the
loss, in double precision, with all noise frozen, and names the modules at fault.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiopure.attacks.criteria import Criterion
from audiopure.attacks.objective import Objective, call
from audiopure.attacks.routes import reroute
from audiopure.errors import InputError
from audiopure.evaluation.auditing import finite_differences as differences
from audiopure.evaluation.auditing.broken_modules import Break, declares, find_breaks
from audiopure.evaluation.auditing.gradient_noise import probe
from audiopure.evaluation.auditing.record import AuditReport, ClipFacts, Family, ModuleFacts, Verdict
from audiopure.noise import SeededNoise

THRESHOLD = 0.99  # least cosine of an exact gradient
JUDGED = ("random", "smooth")  # families whose cosine decides
LADDER = 3  # random directions that find the step
DITHER = 0.5 / 32768
_DRAWS, _DIRECTIONS, _DITHER, _PROBES, _MODULES, _ELSEWHERE = range(900, 906)  # purposes of the noise


def audit(
    model: nn.Module,
    waveform: Tensor,
    labels: Tensor,
    *,
    noise: SeededNoise,
    lengths: Tensor | None = None,
    draws: int = 2,
    directions: int = 12,
    loss: str | Criterion = "ce",
    route: str = "exact",
    probes: int = 4,
    thorough: bool = True,
) -> AuditReport:
    """Compare an attack's gradient with finite differences. The model itself is left as it is.

    Args:
        model: waveforms (B, T) to logits (B, C), in eval mode, defended or not; it gets `noise` as in an
            attack.
        waveform: (B, T) in [-1, 1].
        labels: (B,).
        noise: the only source of randomness.
        lengths: (B,) samples of each clip; the attack changes nothing beyond.
        draws: of the model's randomness, that the loss averages.
        directions: random ones for each clip; half as many smooth ones are added, and a few special ones.
        loss: what the attack climbs.
        route: how its gradient passes purifiers, see `attacks.routes`.
        probes: gradients of independent draws whose cosines are taken, at least two.
        thorough: look into every module; else only where the whole gradient is not exact.

    Cost: for each clip about 3 `directions` + 10 forward passes a draw and 30 more; for the modules, one clip
    and about 10 passes times the depth to which they are nested.

    Raises InputError for inputs that do not fit, an unknown route, or a model whose output for the same input
    and noise changes from call to call.
    """
    _check(waveform, labels, min(draws, directions, probes - 1))
    subject, fallback = _subject(model, waveform, noise, lengths)
    x, mask = _generic(waveform.to(torch.float32 if fallback else torch.float64), lengths, noise)
    victim = Objective(subject, labels, loss, False, lengths)
    climbed = replace(victim, model=reroute(subject, route))
    probed = probe(climbed, x, noise.fresh(_PROBES), probes)
    work = _Work(victim, climbed, x, mask, noise, 1 if probed.fixed else draws)
    measured = work.measure(directions, probed.error)
    modules = work.modules(measured) if thorough or not measured.exact else []
    verdict, summary = _verdict(climbed.model, route, measured, modules)
    return AuditReport(
        verdict=verdict,
        summary=summary,
        cosine=measured.cosine,
        sign_agreement=measured.sign_agreement,
        relative_error=measured.families["random"].relative_error,
        families=measured.families,
        clips=measured.clips,
        modules=[ModuleFacts(**found._asdict()) for found in modules],
        error=measured.error,
        route=route,
        loss=loss if isinstance(loss, str) else repr(loss),
        draws=work.draws,
        precision="float32" if fallback else "float64",
        fallback=fallback,
        pairwise=probed.pairwise,
        eot=probed.eot,
    )


class _Measured(NamedTuple):
    families: dict[str, Family]
    clips: list[ClipFacts]
    sign_agreement: float
    error: str | None

    @property
    def cosine(self) -> float:
        return min(clip.cosine for clip in self.clips)

    @property
    def exact(self) -> bool:
        return self.cosine >= THRESHOLD and not any(clip.rough for clip in self.clips)


@dataclass(frozen=True)
class _Work:
    """An audit under way: `victim` is judged, `climbed` differs from it in the gradient's route."""

    victim: Objective
    climbed: Objective
    x: Tensor
    mask: Tensor
    noise: SeededNoise
    draws: int

    def measure(self, count: int, error: str | None) -> _Measured:
        """Slopes along all directions, against those that the gradient predicts."""
        source = self.noise.fresh(_DRAWS)
        self._check_replay(source)
        gradient = torch.zeros_like(self.x)
        if error is None:
            gradient = self.climbed.gradient(self.x, source, self.draws).gradient * self.mask
        families = differences.directions(gradient, self.mask, self.noise.fresh(_DIRECTIONS), count)
        steady = differences.steadiness(self.victim, self.x, families["random"][:LADDER], source, draws=1)
        slopes = {
            name: (
                differences.slopes(self.victim, self.x, along, steady.step, source, self.draws),
                (along * gradient).sum(-1),
            )
            for name, along in families.items()
        }
        cosines = torch.stack([differences.cosine(*slopes[name]) for name in JUDGED]).amin(0)
        agreement = torch.cat([_agree(*slopes[name]).flatten() for name in JUDGED])
        return _Measured(
            {name: _family(*pair) for name, pair in slopes.items()},
            _clips(cosines, gradient, slopes["gradient"][0][0], steady),
            float(agreement.double().mean()),
            error,
        )

    def _check_replay(self, source: SeededNoise) -> None:
        once, again = (self.victim.value(self.x, source, self.draws) for _ in range(2))
        if not bool(once.isfinite().all()):
            raise InputError("the model returned logits that are not finite")
        if not torch.allclose(once, again, rtol=1e-9 if self.x.dtype == torch.float64 else 1e-4):
            raise InputError(
                "the model answers differently to the same sound and noise, so that its slopes cannot be "
                "measured: let its forward take `noise` and draw all its randomness from there"
            )

    def modules(self, measured: _Measured) -> list[Break]:
        """The modules at fault, as heard with the clip whose cosine is lowest."""
        row = min(range(len(self.x)), key=lambda b: measured.clips[b].cosine)
        x, mask, source = self.x[row, None], self.mask[row, None], self.noise.fresh(_DRAWS).rows([row])
        lengths = None if self.climbed.lengths is None else self.climbed.lengths[row, None]
        level = x.square().mean().sqrt()
        white = level * self.noise.fresh(_ELSEWHERE).rows([row]).normal(
            (1, x.shape[1]), draw=0, device=x.device, dtype=x.dtype
        )
        return find_breaks(
            self.climbed.model,
            lambda sound: call(self.climbed.model, sound, source.fresh(0), lengths),
            x,
            [torch.where(mask, other, x) for other in (-x.flip(-1), white)],
            self.noise.fresh(_MODULES),
            broken=not measured.exact,
        )


def _check(waveform: Tensor, labels: Tensor, least: int) -> None:
    if waveform.ndim != 2 or not waveform.is_floating_point() or labels.shape != waveform.shape[:1]:
        raise InputError(
            f"an audit needs waveforms (clips, time) and a label for each, got {waveform.dtype} "
            f"{tuple(waveform.shape)} and labels {tuple(labels.shape)}"
        )
    if not bool(torch.isfinite(waveform).all()) or bool((waveform.abs() > 1).any()):
        raise InputError("an audit needs finite samples in [-1, 1]")
    if least < 1 or not len(waveform):
        raise InputError("an audit needs at least one clip, draw and direction, and two probes")


def _subject(
    model: nn.Module, waveform: Tensor, noise: SeededNoise, lengths: Tensor | None
) -> tuple[nn.Module, str | None]:
    """A copy of the model in float64; else the model in float32, and why."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # whatever a model's author has put into it
        return model, f"the model cannot be copied ({_first_line(error)})"
    try:
        with torch.no_grad():
            call(twin.double(), waveform.double(), noise, lengths)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        return copy.deepcopy(model), f"the model cannot run in float64 ({_first_line(error)})"
    return twin, None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _generic(x: Tensor, lengths: Tensor | None, noise: SeededNoise) -> tuple[Tensor, Tensor]:
    """Half a 16-bit step beside the clip, and what may change: at digital silence or full scale, and on the
    16-bit grid itself, models have kinks that no other sound meets."""
    mask = torch.ones_like(x, dtype=torch.bool)
    if lengths is not None:
        mask = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
    dither = noise.fresh(_DITHER).normal((len(x), x.shape[1]), draw=0, device=x.device, dtype=x.dtype)
    return torch.where(mask, 0.999 * x + DITHER * dither, x), mask


def _family(measured: Tensor, predicted: Tensor) -> Family:
    return Family(
        directions=len(measured),
        cosine=float(differences.cosine(measured, predicted).min()),
        sign_agreement=float(_agree(measured, predicted).double().mean()),
        relative_error=float(differences.relative_error(measured, predicted).max()),
    )


def _agree(measured: Tensor, predicted: Tensor) -> Tensor:
    return (measured.sign() == predicted.sign()) & (measured != 0)


def _clips(
    cosines: Tensor, gradient: Tensor, along: Tensor, steady: differences.Steadiness
) -> list[ClipFacts]:
    sizes = gradient.norm(dim=1)
    return [
        ClipFacts(
            cosine=float(cosines[b]),
            gradient=float(sizes[b]),
            along=float(along[b] / sizes[b]) if sizes[b] > 0 else None,
            step=float(steady.step[b]),
            rough=bool(steady.rough[b]),
            flat=bool(steady.flat[b]),
        )
        for b in range(len(gradient))
    ]


def _verdict(model: nn.Module, route: str, measured: _Measured, modules: list[Break]) -> tuple[Verdict, str]:
    approximations = [f"route {route}"] * (route != "exact") + [
        name or type(module).__name__ for name, module in model.named_modules() if declares(module)
    ]
    undeclared = [found for found in modules if not found.declared]
    if approximations and (measured.exact or not undeclared):
        return "declared", f"BPDA, declared: {', '.join(approximations)}"
    if measured.exact:
        return "exact", "the attack's gradient is the true one"
    if measured.error is not None:
        return "broken", f"there is no gradient: {measured.error}"
    if all(clip.flat for clip in measured.clips):
        return "broken", "the loss does not move at all along any direction"
    if any(clip.rough for clip in measured.clips):
        return "broken", "the loss jumps, as by rounding, and no gradient tells how"
    if not any(clip.gradient for clip in measured.clips):
        return "broken", "the gradient is zero although the loss moves"
    return "broken", f"the attack's gradient has a cosine of {measured.cosine:.3f} with the true one"
