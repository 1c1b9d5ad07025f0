"""Attacks on smoothed classifiers as Markdown: tables of smoothed_attacks.py's record."""

from __future__ import annotations

from typing import Any

from certificate_tables import percent
from scipy.special import ndtri

from audiopure.evaluation.certified import words
from audiopure.evaluation.reproduce.reading import table, whole
from audiopure.evaluation.scoring import proportion


def attacks(record: dict[str, Any]) -> str:
    """What attacks leave of smoothed classifiers beside what is certified, and of heuristic defences."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in record["lines"]:
        groups.setdefault((line["setting"], line["attack"]), []).append(line)
    body, known = [], {setting["name"]: setting for setting in record["settings"]}
    audible = []
    for (name, attack), lines in groups.items():
        count = [f"{known[name]['sigma']:g}" if name in known else "", str(len(lines))]
        if lines[0]["shares"]:
            body += [[name, *count, *cells] for cells in _heuristic(lines)]
            continue
        clean = percent(line["clean"] == line["label"] for line in lines)
        for size in lines[0]["answers"]:
            certain = "" if attack == "qin" else _within(float(size), lines, known[name])
            shown = "Qin" if attack == "qin" else size
            body.append([name, *count, clean, shown, certain, *_told(size, lines)])
        if attack == "qin":
            audible.append(_audible(name, lines))
    heads = ["object or defence", "sigma", "clips", "clean, %", "L2 radius", "certified, %"]
    wrong = sum(len(line["contradicted"]) for line in record["lines"])
    systems = "; ".join(f"{name} of `{setting['system']}`" for name, setting in known.items())
    draws = max((setting["n"] for setting in known.values()), default=0)
    note = (
        f"{systems}; without a sigma a heuristic defence, or none, of the waveform before `digits`. "
        f"Certified with at most {draws:,} draws, – where no certificate of so many reaches. PGD: 20 steps "
        "of 8 draws. Under attack PREDICT is right, abstains, or changes from one answer to another; of a "
        "heuristic defence the share of fresh passes that are right. "
        f"Other answers within a certified radius: {wrong}."
    )
    table_ = table([*heads, "right, %", "abstains, %", "changed, %"], body)
    return "\n\n".join([table_, " ".join([note, *audible])])


def _heuristic(lines: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of a defence without a certificate."""
    clean, *names = (
        (key, whole(proportion(sum(line["shares"][key] for line in lines), len(lines))))
        for key in lines[0]["shares"]
    )
    return [[clean[1], key, "none", share, "", ""] for key, share in names]


def _within(radius: float, lines: list[dict[str, Any]], setting: dict[str, Any]) -> str:
    """The share of clips certified at a radius; a dash where no certificate of so many draws reaches it."""
    if radius > setting["sigma"] * ndtri(setting["alpha"] ** (1 / setting["n"])):
        return "–"
    return percent(line["certified"] == line["label"] and line["radius"] >= radius for line in lines)


def _told(attack: str, lines: list[dict[str, Any]]) -> list[str]:
    """Shares of clips that PREDICT gets right, abstains on, and changes its answer to."""
    both = [(line["answers"][attack], line) for line in lines]
    other = [None not in (one, line["clean"]) and one != line["clean"] for one, line in both]
    right = [one == line["label"] for one, line in both]
    return [percent(right), percent(one is None for one, _ in both), percent(other)]


def _audible(name: str, lines: list[dict[str, Any]]) -> str:
    """What Qin's changes amount to."""
    size, above, heard = (
        words.median([line[key] for line in lines]) for key in ("distance", "above", "heard")
    )
    longer = sum(line["distance"] > line["radius"] for line in lines)
    return (
        f"Qin's changes of the {name}, at the median: {size:.2g} in L2, {above:.1f} dB above the masking "
        f"threshold, over it in {100 * heard:.0f} % of time and frequency; longer than the certified radius "
        f"for {longer} of {len(lines)} clips."
    )
