"""The paper's figures in our setting, as SVG; the same records give the same file."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiopure.api import load_purifier, load_recogniser
from audiopure.attacks import PAPER_BUDGETS, Pgd
from audiopure.data.layouts import load_dataset
from audiopure.defended import defend
from audiopure.errors import InputError
from audiopure.evaluation.card import Card, Curve, Point, Proportion
from audiopure.evaluation.reproduce.entries import Entry
from audiopure.evaluation.reproduce.reading import BUDGETS, NORMS, iterate, stored
from audiopure.noise import SeededNoise
from audiopure.padding import at_least

COLOURS = ("#8a6d00", "#b3261e", "#1d5bbf", "#2e7d32", "#6a1b9a", "#455a64")
DASHES = ((1, 2), (4, 2), (1, 0), (6, 2, 1, 2), (3, 1), (2, 2, 6, 2))
AXES = {"steps": "attack steps", "eot": "EOT draws"}
SWEPT = 20  # steps of the attack whose draws are swept
BLOCK = 40  # samples that share a line of a drawn wave
LARGER = (0.002, 0.01, 0.02, 0.03, 0.04, 0.05)  # budgets of figure B


def against(axis: str, entries: Sequence[Entry], records: Path, path: Path) -> None:
    """A picture of the curves "steps" or "eot" of `standard`'s cards: figures 2a and 2b.

    A system without randomness has no draws to grow: against "eot" it is a level line.
    """
    found = lines(axis, entries, records)
    published = {entry.name: entry.published for entry in entries}
    shown = [norm for norm in BUDGETS if any(norm in drawn for drawn in found.values())]
    need(shown, "evaluations")
    figure, axes = pyplot().subplots(1, len(shown), figsize=(4.4 * len(shown), 3.4), squeeze=False)
    for panel, norm in zip(axes[0], shown, strict=True):
        reach = [point.x for drawn in found.values() for point in drawn.get(norm, ())]
        for number, (title, drawn) in enumerate(found.items()):  # a defence looks alike in all panels
            points = drawn.get(norm)
            if points is None:
                continue
            level = len(points) == 1
            xs = [min(reach), max(reach)] if level else [point.x for point in points]
            chosen = [*points, *points] if level else points
            line(panel, number, xs, [point.y for point in chosen], title)
            if axis == "steps" and (known := published.get(title)):
                paper = {steps: share for (kind, steps), share in known.robust.items() if kind == norm}
                marks = {"marker": "x", "color": COLOURS[number % len(COLOURS)], "linestyle": "none"}
                panel.plot(list(paper), list(paper.values()), **marks, markersize=4)
        dress(panel, AXES[axis], BUDGETS[norm], legend=panel is axes[0][0])
    axes[0][0].set_ylabel("accuracy, %")
    save(figure, path)


def lines(axis: str, entries: Sequence[Entry], records: Path) -> dict[str, dict[str, list[Point]]]:
    """Title of a defence -> norm -> the points of its curve, a single one for a level.

    Only norms in which some system has a curve.
    """
    cards = {entry.name: card for entry in entries if (card := stored(records, entry.record("standard")))}
    curves = {
        title: {norm: curve.points for norm in BUDGETS if (curve := _curve(card, axis, norm))}
        for title, card in cards.items()
    }
    norms = {norm for drawn in curves.values() for norm in drawn}
    if axis == "eot":
        for title, card in cards.items():
            levels = {norm: point for norm in norms if (point := _level(card, norm))}
            curves[title] |= {norm: [point] for norm, point in levels.items() if norm not in curves[title]}
    return {title: drawn for title, drawn in curves.items() if drawn}


def _level(card: Card, norm: str) -> Point | None:
    """What PGD-20, the attack of the curves of draws, leaves of a system that has one draw."""
    if card.rows[0].conditions[0].attacked.passes > 1:
        return None
    share = iterate(card, norm, SWEPT)
    return None if share is None else Point(x=1, y=share)


def against_caption(axis: str, entries: Sequence[Entry], records: Path) -> tuple[str, str] | None:
    """Alternative text and caption: what each line ends at, and how it was measured; None without lines."""
    found = lines(axis, entries, records)
    if not found:
        return None
    last = {
        title: [f"{100 * points[-1].y.value:.0f} % ({NORMS[norm]})" for norm, points in drawn.items()]
        for title, drawn in found.items()
    }
    ends = [f"{title} {', '.join(values)}" for title, values in last.items()]
    counts = sorted({points[-1].y.n for drawn in found.values() for points in drawn.values()})
    clips = "/".join(map(str, counts))
    words = {
        "steps": "Accuracy of each iterate of PGD-100 by cross-entropy on the draws of its own step, "
        "protocol `standard`; with 95 % intervals over {} clips. The attack has converged where the lines "
        "are level. Crosses: published, of table 1's weaker protocol.",
        "eot": "Average accuracy over fresh passes after PGD-20 with so many draws a step, protocol "
        "`standard`; with 95 % intervals over {} clips. A system without randomness is a level line, what "
        "20 steps of the attack leave. The paper prints no numbers of its own figure.",
    }[axis].format(clips)
    return f"Accuracy against {AXES[axis]}, at the right end: {'; '.join(ends)}.", words


def overview(data: Path, path: Path) -> None:
    """A word, attacked and purified, as wave and as spectrogram, with what is heard: figure 1."""
    clip, label, recogniser = _word(data)
    defended = defend(recogniser, load_purifier())
    found = _attacked(recogniser, clip, label, PAPER_BUDGETS["linf"])
    with torch.no_grad():
        clean = defended.purify(found, noise=SeededNoise(0))
    stages = {"attacked": found, "purified": clean}
    figure, axes = pyplot().subplots(2, 3, figsize=(9.6, 4.2))
    for column, (name, wave) in enumerate({"recorded": clip, **stages}.items()):
        with torch.no_grad():
            heard = recogniser.labels[int(recogniser(wave).argmax())]
            picture = recogniser.frontend(wave)[0].numpy()
        _wave(axes[0][column], wave, f"{name}: heard as “{heard}”")
        axes[1][column].imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=-35, vmax=20)
        axes[1][column].set(xlabel="frame", ylabel="mel band" if column == 0 else None)
    save(figure, path)


def budgets(data: Path, path: Path) -> None:
    """The same word under larger and larger budgets: figure B."""
    clip, label, recogniser = _word(data)
    figure, axes = pyplot().subplots(2, 4, figsize=(11, 4.2), sharey=True)
    waves = {"clean": clip}
    waves |= {f"eps = {eps:g}": _attacked(recogniser, clip, label, eps) for eps in LARGER}
    for axis, (name, wave) in zip(axes.flat, waves.items(), strict=False):
        _wave(axis, wave, name)
    axes.flat[-1].set_axis_off()
    save(figure, path)


def _word(data: Path) -> tuple[Tensor, int, Any]:
    """A word of the test split, of median loudness, that the recogniser hears if it hears any."""
    clips = load_dataset(data.name, data.parent, "test")
    clips = clips.stratified(min(20, len(clips)), seed=0)
    recogniser: Any = load_recogniser()
    waves = [at_least(w, 16_000) for w in clips.load_all(16_000)]
    labels = clips.targets().tolist()
    with torch.no_grad():
        right = [k for k, w in enumerate(waves) if int(recogniser(w[None]).argmax()) == labels[k]]
    words = sorted(right or range(len(waves)), key=lambda k: float(waves[k].square().mean()))
    chosen = words[len(words) // 2]
    return waves[chosen][None], labels[chosen], recogniser


def _attacked(model: Any, clip: Tensor, label: int, eps: float) -> Tensor:
    attack = Pgd(norm="linf", eps=eps, steps=50, step_size=eps / 4)
    return attack(model, clip, torch.tensor([label]), noise=SeededNoise(0)).adversarial


def _curve(card: Card, axis: str, norm: str) -> Curve | None:
    first = card.rows[0].key
    return next((c for c in card.curves if (c.axis, c.row, c.column) == (axis, first, norm)), None)


def pyplot() -> Any:
    """Matplotlib, drawing files that are the same for the same data."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as found

    found.rcParams["svg.hashsalt"] = "audiopure"
    return found


def need(found: Sized, runs: str) -> None:
    """InputError where there is nothing to draw."""
    if not len(found):
        raise InputError(f"there is no record to draw yet; run the {runs} first")


def line(axis: Any, number: int, xs: Sequence[float], shares: Sequence[Proportion], title: str) -> None:
    """A line in percent with its intervals, in the colour of its number."""
    ys = [[100 * getattr(share, key) for share in shares] for key in ("value", "low", "high")]
    colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    axis.plot(xs, ys[0], color=colour, dashes=dashes, label=title)
    axis.fill_between(xs, ys[1], ys[2], color=colour, alpha=0.12, linewidth=0)


def dress(axis: Any, label: str, title: str, *, legend: bool = True) -> None:
    axis.set(xlabel=label, title=title, ylim=(0, 102))
    axis.grid(alpha=0.25)
    if legend and axis.get_legend_handles_labels()[0]:  # until something has been run there is none
        axis.legend(frameon=False, fontsize=8)


def _wave(axis: Any, wave: Tensor, title: str) -> None:
    parts = wave[0, : wave.shape[1] // BLOCK * BLOCK].unflatten(0, (-1, BLOCK))
    times = [k * BLOCK / 16_000 for k in range(len(parts))]
    low, high = parts.amin(1).numpy(), parts.amax(1).numpy()
    axis.fill_between(times, low, high, linewidth=0.3, color=COLOURS[2])
    axis.set(title=title, xlim=(0, wave.shape[1] / 16_000), ylim=(-1, 1))
    axis.title.set_fontsize(9)


def save(figure: Any, path: Path) -> None:
    """Write an SVG without its date."""
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
