"""The report card: the schema of `report.json`, version 1.

    schema      "audiopure-card-1"; changes when a field changes its meaning
    command     the shell command that repeats the evaluation
    versions    audiopure, python, torch
    machine     device, threads, workers, platform, source (first digits of a hash of the code; with sources
                where several states of it have a part)
    protocol    name, passes (fresh passes that score a clip), settings, note (null, or what must stand beside
                every number of it)
    data        name, split, clips (evaluated), of (how many there were), note, shard (null, or "i/n")
    weights     name of a weights file -> first 16 hex digits of its SHA-256
    cost        seconds of work, summed over processes; passes: forward passes that all attacks spent (a
                gradient is one)
    rows        one for each system: the one evaluated, its controls, its variants (see `Row`)
    curves      accuracy against steps, EOT draws, budget, n_star (see `Curve`)
    checks      sanity checks with their verdicts: passed, violated, declared, not run (see `Check`)
    flags       what a reader must know: violated sanity checks, broken gradients, missing parts (see `Flag`)
    examples    clips to listen to, the worst first
    clips       one for each clip: its label, and the share of fresh passes that are right in each condition

Proportions lie in [0, 1] with exact 95 % Clopper-Pearson intervals over clips: passes of a clip are not
independent and never narrow an interval.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = "audiopure-card-1"


CLEAN = "clean"  # the condition without an attack, and its column
KNOWLEDGE = "The attacker's knowledge of the noise: {}."  # in a condition's note; nothing else tells it


class Record(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.rstrip("_"),
        populate_by_name=True,
        ser_json_inf_nan="strings",  # a curve may end at an unbounded budget; null could not be read back
    )


class Proportion(Record):
    """A share of n clips with its interval."""

    value: float
    low: float
    high: float
    n: int


class Metrics(Record):
    """Accuracy over the same clips, read in four ways; a fixed system has one pass and four equal numbers.

    Attributes:
        one_shot: the first fresh pass is right.
        average: mean over all fresh passes, the chance of being right once. Its interval is that of as many
            clips as the mean amounts to, rounded outwards.
        worst: every one of the fresh passes is right.
        vote: the label most passes give (the first of equals) is right.
        passes: fresh passes of each clip.
    """

    one_shot: Proportion
    average: Proportion
    worst: Proportion
    vote: Proportion
    passes: int


class Spread(Record):
    """Of a quantity over clips: median, 10th and 90th percentile, and how many clips have it."""

    median: float
    low: float
    high: float
    n: int


class Condition(Record):
    """One attack on one system.

    Attributes:
        key: stage and column, as in "pgd-ce/linf"; "clean" and "random/linf" come by themselves.
        column: what budgets it: a norm, or another key where no norm bounds it.
        budget: in words, as in "L∞ ≤ 0.002".
        attack: label of the attack, its constructor; None for clean.
        route: how its gradients pass, or "none" for an attack without gradients.
        counts: whether it enters the row's headline.
        note: what must be said with it, for example that it ran on survivors only.
        attacked, clean: the same clips with and without the attack.
        success: clips that are right without the attack (by average, at least half of the passes) and wrong
            with it (likewise).
        any_iterate: clips for which no single draw of any iterate failed, the reading of AudioPure's release;
            None where an attack has no such history.
        any_iterate_clean: the same clips' value without an attack over as many draws; None where it was not
            measured.
        queries: mean forward passes a clip.
        distances: "snr" (dB), "l2", "linf", "above_mask" (dB above the masking threshold), "stoi", "pesq".
    """

    key: str
    title: str
    column: str
    budget: str
    attack: str | None
    route: str
    counts: bool
    note: str | None
    attacked: Metrics
    clean: Metrics
    success: Proportion | None
    any_iterate: Proportion | None
    any_iterate_clean: Proportion | None = None
    queries: float
    distances: dict[str, Spread]


class Headline(Record):
    """The worst of a row's attacks within one budget: each clip counts with the attack of lowest average."""

    column: str
    budget: str
    attacks: list[str]
    attacked: Metrics
    clean: Metrics


class Gradient(Record):
    """What the gradient audit found of a row.

    Attributes:
        verdict: "exact", "declared" (an approximation that says so), "broken", or "none" (nothing to audit).
        cosine: of the attack's gradient with finite differences, in double precision, noise frozen.
        sign_agreement: share of directions whose slope has the right sign.
        silent: modules that contribute no gradient although sound passes through them.
        pairwise: mean cosine of gradients of independent draws: how much EOT has to average.
    """

    verdict: Literal["exact", "declared", "broken", "none"]
    cosine: float | None
    sign_agreement: float | None
    silent: list[str]
    pairwise: float | None
    note: str | None


class Row(Record):
    """One system.

    Attributes:
        role: "system", "control" (undefended, noise only, reverse only), or "variant" (of a curve).
    """

    key: str
    title: str
    spec: str
    role: Literal["system", "control", "variant"]
    gradient: Gradient | None
    headlines: list[Headline]
    conditions: list[Condition]


class Point(Record):
    x: float
    y: Proportion


class Curve(Record):
    """Average accuracy of a row in one column against something.

    Attributes:
        axis: "steps", "any-iterate" (steps again, but of clips that no draw so far has failed), "eot",
            "budget" (a multiple of the protocol's), or "n_star".
    """

    axis: Literal["steps", "any-iterate", "eot", "budget", "n_star"]
    title: str
    row: str
    column: str
    points: list[Point]
    note: str | None


class Flag(Record):
    """Something a reader must know. "violation" means that the numbers cannot be taken at their word."""

    kind: Literal["violation", "note"]
    sentence: str


class Check(Record):
    """A sanity check: what no honest evaluation fails.

    Attributes:
        name: what must hold, in words.
        about: the row, attack or curve it was looked for in.
        verdict: "violated" also stands among the flags; "declared" says of a gradient that it is not exact.
        sentence: the numbers.
    """

    name: str
    about: str
    verdict: Literal["passed", "violated", "declared", "not run"]
    sentence: str


class Example(Record):
    """A clip to listen to: audio files relative to the report's folder."""

    clip: str
    label: str
    row: str
    condition: str
    right: int
    passes: int
    heard: str
    snr: float | None
    audio: str


class ClipOutcome(Record):
    """`right`: row -> condition -> share of fresh passes that are right."""

    id: str
    label: str
    seconds: float
    right: dict[str, dict[str, float]]


class Protocol(Record):
    name: str
    passes: int
    settings: dict[str, Any]
    note: str | None


class Data(Record):
    name: str
    split: str | None
    clips: int
    of: int
    note: str | None
    shard: str | None


class Cost(Record):
    seconds: float
    passes: int


class Card(Record):
    schema_: Literal["audiopure-card-1"]
    command: str
    versions: dict[str, str]
    machine: dict[str, Any]
    protocol: Protocol
    data: Data
    weights: dict[str, str]
    cost: Cost
    rows: list[Row]
    curves: list[Curve]
    checks: list[Check] = []
    flags: list[Flag]
    examples: list[Example]
    clips: list[ClipOutcome]
