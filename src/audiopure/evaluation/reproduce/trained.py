"""What was trained: facts of weights and their curves, kept as a record so that tables need no weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audiopure.errors import InputError
from audiopure.evaluation.reproduce.entries import WEIGHTS, weights_file
from audiopure.evaluation.reproduce.jobs import Place, keep
from audiopure.evaluation.reproduce.reading import json_record, table
from audiopure.hub import SHIPPED, describe
from audiopure.training import flattening

NAME = "trained"
# shipped weights from before cards told it: core seconds, as noted when they were trained
EARLIER = {"small": 2 * 85 * 60.0, "digits": 2 * 80 * 60.0, "m5": 16 * 60.0}
LOSS = "validation_loss"
HEADS = ("weights", "recipe", "parameters", "steps", "best at", "core hours", "moved", "flattened")

Facts = Mapping[str, Any]


def measure(place: Place, weights: Path) -> None:
    """Keep the facts of all weights that there are, and of NAME.jsonl, the run's log, beside them."""
    path = place.records / f"{NAME}.json"
    record = json_record(path)
    found = {name: one for name in WEIGHTS if (one := weights_file(weights, name)).is_file()}
    new = {name: _described(name, where) for name, where in found.items()}
    for name, one in new.items():
        one["log"] = one["log"] or record.get(name, {}).get("log", [])
    if record | new != record:
        keep(record | new, path)


def facts(records: Path) -> Mapping[str, Facts]:
    """Name of weights -> what is known of their training; the shipped ones say it themselves."""
    return {name: _described(name, name) for name in SHIPPED} | json_record(records / f"{NAME}.json")


def _described(name: str, where: str | Path) -> dict[str, Any]:
    found = describe(where)
    card = found["card"]
    log = Path(where).with_suffix(".jsonl") if isinstance(where, Path) else None
    lines = log.read_text(encoding="utf-8").splitlines() if log is not None and log.is_file() else []
    entries = [json.loads(line) for line in lines]
    return {
        "kind": found["kind"],
        "recipe": card.get("recipe"),
        "initial": card.get("config", {}).get("initial"),
        "parameters": card.get("parameters"),
        "best": card.get("validation", {}).get("step"),
        "change": card.get("change"),
        "flattened": _long_enough(entries, card),
        "core_seconds": core_seconds(card.get("cost"), name),
        "machine": card.get("cost", {}).get("machine"),
        "log": entries,
    }


def _long_enough(log: Sequence[Mapping[str, float]], card: Mapping[str, Any]) -> bool | None:
    """By today's rule where the log has a loss, else as the card says."""
    if not log or LOSS not in log[0]:
        return card.get("flattened")
    return flattening.flattened(log, nats=card.get("nats", True))


def core_seconds(cost: Mapping[str, Any] | None, name: str) -> float | None:
    """Of one run, from its card's `cost`; None if nobody knows."""
    if cost is None:
        return EARLIER.get(name)
    return cost["seconds"] * cost.get("processes", 1) * cost.get("threads", 1)


def spent(name: str, known: Mapping[str, Facts]) -> float | None:
    """Core seconds of training, those of what it began with included; None if they are not known.

    What a recogniser began with counts as the recogniser that every row has.
    """
    if name not in known:
        return None
    own, before = known[name]["core_seconds"], known[name]["initial"]
    if own is None or before is None or known[name]["kind"] == "recogniser":
        return own
    first = spent(before if before in SHIPPED else Path(before).stem, known)
    return None if first is None else own + first


def flattened(one: Facts) -> str:
    """What its card says of whether its validation had flattened."""
    return {True: "yes", False: "no"}.get(one["flattened"], "unknown")


def trainings(records: Path) -> str:
    """One row for each of the weights that are not shipped."""
    known = {name: one for name, one in facts(records).items() if name not in SHIPPED}
    if not known:
        return "Not trained yet."
    body = [_row(name, one) for name, one in known.items()]
    machines = "; ".join(sorted({one["machine"] for one in known.values() if one["machine"]}))
    note = (
        "Core hours: seconds times processes and threads. Moved: by how much of their length training "
        "changed the weights. Flattened: the last two fifths of the run hardly lowered its validation loss, "
        f"or the run ended early. {machines}"
    )
    return table(HEADS, body) + f"\n\n{note.strip()}"


def _row(name: str, one: Facts) -> list[str]:
    steps = f"{one['log'][-1]['step']:,}" if one["log"] else "unknown"
    best = "unknown" if one["best"] is None else f"{one['best']:,}"
    hours = "unknown" if one["core_seconds"] is None else f"{one['core_seconds'] / 3600:.1f}"
    size = "unknown" if one["parameters"] is None else f"{one['parameters'] / 1e6:.2f} M"
    moved = "unknown" if one["change"] is None else f"{100 * one['change']:.1f} %"
    return [f"`{name}`", f"`{one['recipe']}`", size, steps, best, hours, moved, flattened(one)]


def unfinished(names: Iterable[str], records: Path) -> list[str]:
    """Sentences on those of the named weights whose curve has not flattened, or has not been kept."""
    known = facts(records)
    said = {
        False: "its validation had not flattened when its training ended.",
        None: "nothing is known of whether its validation had flattened.",
    }
    found = [(name, known[name]["flattened"]) for name in names if name in known]
    return [f"{name}: {said[flat]}" for name, flat in found if flat is not True]


def draw(records: Path, path: Path) -> None:
    """The validation loss of every run, or its score where the log has no loss."""
    from audiopure.evaluation.reproduce.pictures import COLOURS, pyplot, save

    logs = {name: one["log"] for name, one in facts(records).items() if one["log"]}
    if not logs:
        raise InputError("there is no training curve to draw yet; put each run's log beside its weights")
    columns = min(4, len(logs))
    lines = -(-len(logs) // columns)
    figure, axes = pyplot().subplots(lines, columns, figsize=(3 * columns, 2.3 * lines), squeeze=False)
    for axis, (name, log) in zip(axes.flat, logs.items(), strict=False):
        key = LOSS if LOSS in log[0] else "score"
        axis.plot([line["step"] for line in log], [line[key] for line in log], color=COLOURS[2])
        axis.set_title(f"{name}: {key.replace('_', ' ')}", fontsize=7)
        axis.tick_params(labelsize=6)
        axis.grid(alpha=0.25)
    for axis in list(axes.flat)[len(logs) :]:
        axis.set_axis_off()
    save(figure, path)


def caption(records: Path) -> tuple[str, str] | None:
    """Alternative text and caption of the picture; None if there is nothing to draw."""
    names = [name for name, one in facts(records).items() if one["log"]]
    if not names:
        return None
    alt = f"Validation loss against the steps of training: {', '.join(names)}."
    return alt, "Validation of every run (its score where it logs no loss), whose best weights are kept."
