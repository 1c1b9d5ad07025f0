"""The table of benchmarks/attacks.py: a row for every attack, with the budget at which it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audiopure.attacks import Square


@dataclass(frozen=True)
class Break:
    """An attack of the catalogue and the settings that break an undefended recogniser.

    Attributes:
        clips: at most so many, for attacks that ask thousands of times; None for all.
        cannot: why it leaves more than a few clips; empty for what must not.
        behind: settings to change when the recogniser stands behind the shipped purifier, the budget being
            the same; None for no such run. They are short, as each pass costs several times as much.
        batch: clips attacked together.
        victim: "digits", or "ai8x", a recogniser that others made.
        surrogate: what "transfer" attacks: "stolen" is taught by the undefended victim's answers; "victim" is
            the victim itself, of which nothing is transferred.
    """

    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    clips: int | None = None
    cannot: str = ""
    behind: Mapping[str, Any] | None = None
    batch: int = 20
    victim: str = "digits"
    surrogate: str = ""


def pgd(norm: str, eps: float, **settings: Any) -> dict[str, Any]:
    return {"norm": norm, "eps": eps, "steps": 50, "step_size": eps / 2, "momentum": 0.85, **settings}


EOT: Mapping[str, Any] = {"eot": 4, "selection": 8}
SHORT: Mapping[str, Any] = {"steps": 30, **EOT}
SQUARE = Square(eps=0.002, queries=1000, leave=1)
STUBBORN = "Some clips keep their word down to the strongest component alone."
NOISE = "It is what attacks are compared with: at this budget, noise that is plainly audible."
# in the order of docs/attacks.md; a new attack adds a row
BREAKS: Mapping[str, Break] = {
    "pgd, L∞": Break("pgd", pgd("linf", 0.004), behind=SHORT),
    "pgd, L2": Break("pgd", pgd("l2", 0.4), behind=SHORT),
    "pgd, L∞, from Square's result": Break("pgd", pgd("linf", 0.002, loss="margin", start=SQUARE)),
    "pgd, L∞, on ai8x": Break("pgd", pgd("linf", 0.006, loss="margin"), victim="ai8x"),
    "pgd, L2, on ai8x": Break("pgd", pgd("l2", 0.6, loss="margin"), victim="ai8x"),
    "apgd, L∞": Break("apgd", {"norm": "linf", "eps": 0.004, "steps": 50}, behind=SHORT),
    "apgd, L2": Break("apgd", {"norm": "l2", "eps": 0.4, "steps": 50}, behind=SHORT),
    "autoattack, L∞": Break("autoattack", {"norm": "linf", "eps": 0.004, "steps": 30}),
    "autoattack, L2": Break(
        "autoattack", {"norm": "l2", "eps": 0.4, "steps": 30}, behind={**EOT, "steps": 20}
    ),
    "cw, smallest": Break("cw", {"norm": "free", "steps": 60, "searches": 5}),
    "cw, L2": Break("cw", {"norm": "l2", "eps": 0.4, "steps": 40, "searches": 4}),
    "diffattack, L∞": Break(
        "diffattack",
        {"norm": "linf", "eps": 0.004, "steps": 50, "step_size": 0.002, "momentum": 0.85},
        cannot="It follows the steps of a purifier, and an undefended recogniser has none. Without that term "
        "it is `pgd`.",
        behind=SHORT,
    ),
    "qin": Break("qin", clips=20, behind={"succeed": 40, "hide": 80, "eot": 2, "selection": 8}),
    "low-frequency": Break("low-frequency", {"gain_db": 9.0}, behind={"steps": 40, "eot": 2, "selection": 8}),
    "universal": Break("universal", {"eps": 0.01}, behind={"steps": 60, "selection": 8}, batch=1000),
    "transfer": Break("transfer", {"eps": 0.03}, behind={}, surrogate="stolen"),
    "mi-fgsm": Break("transfer", {"eps": 0.006, "steps": 20}, surrogate="victim"),
    "square, L∞": Break(
        "square",
        {"norm": "linf", "eps": 0.006, "queries": 1000, "leave": 1},
        behind={"queries": 250, "eot": 2, "leave": 10, "selection": 8},
    ),
    "square, L2": Break("square", {"norm": "l2", "eps": 0.8, "queries": 1000, "leave": 1}),
    "nes": Break("nes", {"eps": 0.024, "steps": 80, "leave": 1}, clips=20),
    "spsa": Break("spsa", {"eps": 0.016, "steps": 40, "leave": 1}, clips=20),
    "fakebob": Break("fakebob", {"eps": 0.02, "steps": 100}, clips=20, behind={"steps": 20, "selection": 8}),
    "fakebob-released": Break(
        "fakebob-released",
        {"steps": 30, "samples": 50},
        clips=20,
        cannot="It returns the audio of lowest loss, which is the clean clip.",
    ),
    "siren": Break(
        "siren",
        {"eps": 0.1, "epochs": 10},
        clips=20,
    ),
    "kenansville, fft": Break("kenansville", {"method": "fft"}, cannot=STUBBORN, behind={"eot": 5}),
    "kenansville, ssa": Break("kenansville", {"method": "ssa"}, cannot=STUBBORN),
    "random, L∞": Break("random", {"norm": "linf", "eps": 0.03}, cannot=NOISE, behind={}),
    "random, L2": Break("random", {"norm": "l2", "eps": 2.0}, cannot=NOISE, behind={}),
}
