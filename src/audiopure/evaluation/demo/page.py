"""The demo's page: one HTML file that loads nothing, with sounds, pictures and the table."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from audiopure.evaluation.demo.experiment import Demo
from audiopure.evaluation.demo.results import COLUMNS, DemoResults
from audiopure.evaluation.demo.table import headings, notes, worst
from audiopure.evaluation.pages.parts import Sound, template
from audiopure.evaluation.pages.plots import spectrum


def render(demo: Demo, results: DemoResults) -> str:
    """The page as HTML."""
    chosen = choose_examples(results, demo.config.examples)
    return template("demo.html.j2").render(
        results=results,
        columns=headings(results),
        notes=notes(results),
        worst=worst,
        examples=[_example(demo, results, index) for index in chosen],
        cards={k: json.dumps(m.card, indent=1, sort_keys=True) for k, m in results.models.items()},
    )


def choose_examples(results: DemoResults, count: int) -> list[int]:
    """Indices of clips, those first on which the purified row fares worst: half these, half from the rest."""
    counts = [sum(clip.right["purified"][norm] for norm in results.budgets) for clip in results.clips]
    order = sorted(range(len(counts)), key=lambda i: (counts[i], results.clips[i].id))
    head, rest = order[: (count + 1) // 2], order[(count + 1) // 2 :]
    spread = min(count - len(head), len(rest))
    return head + [rest[round((k + 1) * len(rest) / spread) - 1] for k in range(spread)]


def _example(demo: Demo, results: DemoResults, index: int) -> dict[str, Any]:
    clip, passes = results.clips[index], demo.config.passes
    clean = demo.clips.waveforms[index]
    reference, peak = float(spectrum(clean).max()), float(clean.abs().max())
    titles = headings(results)

    def sound(name: str, audio: Tensor, answer: Tensor | None, facts: list[str]) -> Sound:
        rate: int = demo.recogniser.sample_rate  # type: ignore[assignment]
        labels: tuple[str, ...] = demo.recogniser.labels  # type: ignore[assignment]
        best = None if answer is None else int(answer.argmax())
        return Sound.of(
            audio,
            rate,
            reference=reference,
            peak=peak,
            name=name,
            heard=None if best is None else labels[best],
            confidence=None if answer is None or best is None else round(100 * float(answer[best])),
            right=best == demo.clips.targets[index],
            facts=tuple(facts),
        )

    rows: dict[str, dict[str, Sound]] = {"none": {}, "played": {}, "purified": {}}
    for column in COLUMNS:
        snr = {} if column == "clean" else {k: [f"SNR {v[column]:.1f} dB"] for k, v in clip.snr.items()}
        heard = demo.heard["none", column, index]
        rows["none"][column] = sound(titles[column], heard.audio, heard.probabilities[0], snr.get("none", []))
        if column != "clean":
            played = demo.heard["purified", column, index].audio
            rows["played"][column] = sound(titles[column], played, None, snr["purified"])
        audio, answer = demo.purified(column, index)
        right = f"right in {clip.right['purified'][column]} of {passes} passes"
        rows["purified"][column] = sound(titles[column] + ", purified", audio, answer, [right])
    return {"clip": clip, "rows": rows}
