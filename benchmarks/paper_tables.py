"""The paper's tables and figures as Markdown, from whatever records there are in benchmarks/results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from audiopure.evaluation.reproduce.experiments import EXPERIMENTS

FINDINGS = Path(__file__).resolve().parent / "results" / "findings"
WEIGHTS = Path("weights")  # that the records of a row need no more


def block(name: str, _: object) -> str:
    """A table, its figure with a caption, or both; the figure is docs/images/NAME.svg."""
    one = EXPERIMENTS[name]
    parts = [] if one.text is None else [one.text(FINDINGS, WEIGHTS)]
    if one.caption is not None:
        found = one.caption(FINDINGS)
        parts += ["Not drawn yet."] if found is None else [f"![{found[0]}](images/{name}.svg)", found[1]]
    return "\n\n".join(parts)


def ranking(_: object) -> str:
    """For the README: nothing until there is something to rank."""
    found = EXPERIMENTS["ranking"].caption
    shown = found(FINDINGS) if found else None
    if shown is None:
        return ""
    alt, words = shown
    table = EXPERIMENTS["ranking"].text
    assert table is not None
    return "\n\n".join(
        [
            "### What each defence gives for its time",
            f"![{alt}](docs/images/ranking.svg)",
            words,
            table(FINDINGS, WEIGHTS),
            "All tables of the paper beside ours: [docs/paper.md](docs/paper.md).",
        ]
    )


BLOCKS: Mapping[str, tuple[None, Callable[[object], str]]] = {
    "ranking": (None, ranking),
    **{f"paper-{name}": (None, partial(block, name)) for name in EXPERIMENTS},
}
