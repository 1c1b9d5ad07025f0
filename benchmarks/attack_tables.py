"""The record of benchmarks/attacks.py as Markdown."""

from __future__ import annotations

from typing import Any

from tables import Record, percent, table

SURROGATES = {
    "stolen": ", on a surrogate taught by the recogniser's answers",
    "victim": ", its attack on the surrogate alone, on the recogniser itself",
}


def attacks(record: Record) -> str:
    """What each attack leaves of an undefended recogniser, and why some leave more than they should."""
    body = []
    for key, row in record["rows"].items():
        left, median = row["attacked"], row["median"]
        value = percent(left)
        body.append(
            [
                key,
                row["budget"],
                left["n"],
                f"{100 * row['clean']['value']:.1f}",
                f"**{value}**" if left["value"] < record["limit"] else value,
                f"{row['queries']:,}",
                cell(median["snr"], "{:.0f}"),
                cell(median["l2"], "{:.2f}"),
                cell(median["linf"], "{:.4f}"),
                cell(median["above_mask"], "{:.1f}"),
            ]
        )
    head = ["attack", "budget", "clips", "right before, %", "right after, %", "queries a clip", "SNR, dB"]
    head += ["L2", "L∞", "above mask, dB"]
    chosen = record["settings"]
    text = (
        f"The recogniser `{chosen['recogniser']}` (ai8x: `{chosen['ai8x']}`) on {chosen['split']} clips "
        f"of `{chosen['set']}`; in brackets the 95 % Clopper-Pearson interval, in bold what is below "
        f"{100 * record['limit']:.0f} %. Queries are forward passes and gradients, a mean; distances are "
        "medians over the clips that were changed."
    )
    return "\n\n".join([table(head, body), text, *reasons(record)])


def reasons(record: Record) -> list[str]:
    """Why attacks leave more than the limit, as one list; nothing if none does."""
    lines: list[str] = []
    for key, row in record["rows"].items():
        if row["attacked"]["value"] >= record["limit"]:
            lines.append(f"- `{key}`: {row['cannot'] or 'its budget is too small for these clips.'}")
    lines += [f"- `{key}`: {why}" for key, why in record["without"].items()]
    return ["Not below it, or not measured here, because:\n\n" + "\n".join(lines)] if lines else []


def built(record: Record) -> str:
    """The settings of each row that are not the defaults of its class."""
    body = []
    for key, row in record["rows"].items():
        request = row["request"]
        words = " ".join(f"{name}={value}" for name, value in request["settings"].items())
        surrogate = SURROGATES.get(request["surrogate"], "")
        body.append([key, f"`{request['attack']}`", f"`{words}`{surrogate}" if words else "defaults"])
    return table(["attack", "name", "settings"], body)


def behind(record: Record) -> str:
    """What the same budgets leave behind the shipped purifier, in short runs."""
    body = []
    for key, row in record["behind"].items():
        alone = record["rows"].get(key)
        body.append(
            [
                key,
                row["budget"],
                f"{100 * alone['attacked']['value']:.1f}" if alone else "",
                f"{100 * row['clean']['value']:.1f}",
                percent(row["attacked"]),
                f"{row['queries']:,}",
                cell(row["median"]["snr"], "{:.0f}"),
                cell(row["median"]["above_mask"], "{:.1f}"),
            ]
        )
    first, chosen = next(iter(record["behind"].values())), record["settings"]
    head = ["attack", "budget", "undefended, %", "right before, %", "right after, %", "queries a clip"]
    text = (
        f"`{chosen['purifier']}+{chosen['recogniser']}`, {first['attacked']['n']} clips, mean over "
        f"{record['passes']} fresh passes. The runs are short: they show what an attack finds at least, not "
        "which attack is the strongest."
    )
    return table([*head, "SNR, dB", "above mask, dB"], body) + "\n\n" + text


def cell(value: Any, pattern: str) -> str:
    return "" if value is None else pattern.format(value)
