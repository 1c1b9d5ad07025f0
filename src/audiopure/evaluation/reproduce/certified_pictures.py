"""Figures of certificates: figure A, and the envelope over sigma."""

from __future__ import annotations

from pathlib import Path

from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.reproduce.certified_tables import METHODS, SIGMAS, best, methods, record
from audiopure.evaluation.reproduce.pictures import dress, line, need, pyplot, save
from audiopure.evaluation.reproduce.published import CERTIFIED, RADII

GREY = "#5f6368"
TOLD = (0.1, 0.25, 0.5, 0.75)  # radii of the text that stands for the picture


def certified(records: Path, path: Path) -> None:
    """Certified accuracy against the radius at the paper's two noise levels: figure A."""
    found = _certificates(records)
    need(found, "certifications")
    figure, axes = pyplot().subplots(1, len(SIGMAS), figsize=(4.4 * len(SIGMAS), 3.4), squeeze=False)
    for axis, sigma in zip(axes[0], SIGMAS, strict=True):
        for number, (method, (title, _)) in enumerate(METHODS.items()):
            if (method, sigma) in found:
                radii = [4 * sigma * k / 80 for k in range(81)]
                shares = [found[method, sigma].certified(radius) for radius in radii]
                line(axis, number, radii, shares, title)
        dress(axis, "L2 radius", f"sigma {sigma:g}")
    axes[0][0].set_ylabel("certified accuracy, %")
    save(figure, path)


def envelope(records: Path, path: Path) -> None:
    """The best of all sigmas at each radius, by method, with the paper's two curves as points."""
    found = methods(records)
    need(found, "certifications")
    figure, axis = pyplot().subplots(figsize=(7.2, 4))
    radii = [0.0, *(1.6 * 1.06 ** (k - 100) for k in range(101))]
    for number, method in enumerate(found):
        known = [(radius, of.share) for radius in radii if (of := best(method, radius))]
        line(axis, number, [radius for radius, _ in known], [share for _, share in known], method.title)
    for sigma, marker in zip(SIGMAS, "ox", strict=True):
        points = [p for p in zip(RADII, CERTIFIED["one-shot", sigma], strict=True) if p[0] > 0]
        axis.plot(
            *zip(*points, strict=True), marker, color=GREY, markersize=5, label=f"published, sigma {sigma:g}"
        )
    axis.set_xscale("symlog", linthresh=0.01, linscale=0.4)
    ticks = (0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(0, 1.6)
    dress(axis, "L2 radius", "Certified accuracy, the best sigma at each radius")
    axis.set_ylabel("certified accuracy, %")
    save(figure, path)


def envelope_caption(records: Path) -> tuple[str, str] | None:
    """Alternative text and caption of the envelope; None if there is nothing to draw."""
    found = methods(records)
    if not found:
        return None
    alt = "Certified accuracy against the L2 radius at the best sigma: " + "; ".join(
        f"{method.title} "
        + ", ".join(f"{100 * of.share.value:.0f} % at {r:g}" for r in TOLD if (of := best(method, r)))
        for method in found
    )
    return f"{alt}.", (
        "Share of clips whose answer is right and cannot be changed by anything below the radius, with 95 % "
        "intervals over clips; at each radius the sigma that certifies most. Points: published by Wu et al."
    )


def certified_caption(records: Path) -> tuple[str, str] | None:
    """Alternative text and caption of figure A; None without records."""
    found = _certificates(records)
    if not found:
        return None
    ends = [
        f"{METHODS[method][0]} at sigma {sigma:g}: {100 * one.certified(0).value:.0f} % at radius 0, "
        f"{100 * one.certified(0.5).value:.0f} % at 0.5"
        for (method, sigma), one in found.items()
    ]
    clips = "/".join(sorted({str(len(one.clips)) for one in found.values()}))
    words = f"Certified accuracy against the L2 radius, with 95 % intervals over {clips} clips."
    return f"Certified accuracy falls with the radius. {'; '.join(ends)}.", words


def _certificates(records: Path) -> dict[tuple[str, float], Certificates]:
    pairs = ((method, sigma) for method in METHODS for sigma in SIGMAS)
    return {pair: one for pair in pairs if (one := record(records, *pair))}
