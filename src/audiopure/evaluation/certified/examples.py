"""Clips to listen to beside certificates: what a radius sounds like, and what the base classifier hears."""

from __future__ import annotations

import torch
from torch import Tensor

from audiopure.certification.bases import LocalSmoothing, MultiStep, OneShot
from audiopure.certification.draws import Draws
from audiopure.evaluation.certified.engine import Certification
from audiopure.evaluation.certified.record import ClipCertificate
from audiopure.evaluation.certified.report import Shown
from audiopure.evaluation.certified.settings import Reduced
from audiopure.evaluation.certified.words import worst_first
from audiopure.evaluation.pages.parts import Sound
from audiopure.evaluation.pages.plots import spectrum

EXAMPLES = 6


def examples(work: Certification, clips: list[ClipCertificate]) -> list[Shown]:
    """From the worst to the best; none unless the waveform gets the noise."""
    if work.model.representation.name != "waveform" or not clips:
        return []
    ordered = worst_first(clips)
    count = min(EXAMPLES, len(ordered))
    chosen = [ordered[round(k * (len(ordered) - 1) / max(1, count - 1))] for k in range(count)]
    return [_shown(work, clip) for clip in dict((clip.id, clip) for clip in chosen).values()]


def _shown(work: Certification, clip: ClipCertificate) -> Shown:
    unit = work.clips.ids.index(clip.id)
    clean = work.object(unit).cpu()
    white = Draws(work.settings.seed, work.clips.items[unit], "predict").normal(0, 1, tuple(clean.shape))[0]
    sounds: list[tuple[str, Tensor, ClipCertificate | None]] = [("clip", clean, clip)]
    law = work.model.law
    noise = law.noise(white[None])[0]
    if 0 < clip.radius < float("inf"):
        changed = clean + clip.radius / law.size(noise) * noise
        sounds.append((f"with noise of size {clip.radius:.3g}", changed, None))
    noisy = clean + noise
    sounds.append((f"with smoothing noise, sigma {law.sigma:.3g}", noisy, None))
    denoised = _denoised(work, noisy)
    if denoised is not None:
        sounds.append(("denoised", denoised, None))
    reference, peak = float(spectrum(clean).max()), float(clean.abs().max()) or 1.0
    heard = "abstains" if clip.answer is None else f"“{clip.answer}”"
    return Shown(
        title=f"“{clip.label}”: {heard}, radius {clip.radius:.3g}",
        name=clip.id,
        sounds=tuple(
            Sound.of(
                waveform.clamp(-1, 1),
                work.system.sample_rate,
                reference=reference,
                peak=peak,
                name=name,
                heard=None if shown is None else shown.guess,
                confidence=None,
                right=shown is not None and shown.guess == shown.label,
                facts=_facts(shown),
            )
            for name, waveform, shown in sounds
        ),
    )


def _facts(clip: ClipCertificate | None) -> tuple[str, ...]:
    if clip is None:
        return ()
    return (f"{clip.counts.get(clip.guess, 0)} of {clip.n} votes",)


def _denoised(work: Certification, noisy: Tensor) -> Tensor | None:
    base = work.model.base
    base = base.base if isinstance(base, Reduced) else base
    if isinstance(base, LocalSmoothing):
        base = base.denoised
    with torch.inference_mode():
        if isinstance(base, OneShot):
            return base.denoise(noisy[None].to(work.device))[0].float().cpu()
        if isinstance(base, MultiStep):
            source = Draws(work.settings.seed, 0, "predict").base(0, 1)
            return base.denoise(noisy[None].to(work.device), source)[0].float().cpu()
    return None
