"""Write the tables of README.md and docs/{results,attacks,certify,paper}.md from benchmarks/results.

    python benchmarks/readme.py           fill every <!-- begin:NAME --> ... <!-- end:NAME --> block
    python benchmarks/readme.py --check   exit status 1 if a block differs from its record

No measurement in a table of these documents is typed by hand.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attack_tables
import certificate_tables
import finding_tables
import paper_tables
import smoothed_tables
import tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("results", "attacks", "certify", "paper")),
)
BLOCK = re.compile(r"(<!-- begin:(?P<name>[\w-]+) -->\n).*?(<!-- end:(?P=name) -->)", re.DOTALL)

# name of a block -> (record in benchmarks/results, how it becomes Markdown); findings have a record each
BLOCKS: Mapping[str, tuple[str | None, Callable[[dict[str, Any]], str]]] = {
    "demo-shipped": ("demo-shipped", tables.demo),
    "demo-sc09": ("demo-sc09", tables.demo),
    "other-model": ("other-model", tables.other_model),
    "denoising": ("denoising", tables.denoising_sc09),
    "denoising-all": ("denoising", tables.denoising_all),
    "harm": ("denoising", tables.harm),
    "gradients": ("gradients", tables.gradients),
    "samplers": ("variants", tables.samplers),
    "levels": ("variants", tables.levels),
    "steps": ("variants", tables.steps),
    "speed": ("speed", tables.speed),
    "memory": ("speed", tables.memory),
    "attack-speed": ("attack-speed", tables.attack_speed),
    "recognisers": ("recognisers", tables.recognisers),
    "training": (None, tables.training),
    "attacks": ("attacks", attack_tables.attacks),
    "attacks-settings": ("attacks", attack_tables.built),
    "attacks-behind": ("attacks", attack_tables.behind),
    "findings": (None, finding_tables.standard),
    "findings-paper": (None, finding_tables.paper),
    "findings-quick": (None, finding_tables.quick),
    "findings-grid": (None, finding_tables.grid),
    "findings-cost": (None, finding_tables.costs),
    "findings-schedule": (None, finding_tables.schedule),
    "certificates": (None, certificate_tables.enveloped),
    "certificates-sigma": (None, certificate_tables.by_sigma),
    "certificates-meaning": (None, certificate_tables.meanings),
    "certificates-objects": (None, certificate_tables.objects),
    "certificates-speakers": ("certified-speakers", certificate_tables.speakers),
    "certificates-attacks": ("smoothed-attacks", smoothed_tables.attacks),
    "certificates-more": (None, certificate_tables.more),
    "certificates-draws": (None, certificate_tables.draws),
    "certificates-shapes": (None, certificate_tables.shapes),
    "certify-speed": ("certify-speed", tables.certify_speed),
    "certify-agreement": ("certify-agreement", certificate_tables.agreements),
    **paper_tables.BLOCKS,
}


def fill(text: str) -> str:
    """The document with every block written anew."""

    def block(match: re.Match[str]) -> str:
        text = re.sub(r"(?<!\\)n\*", r"n\\*", rendered(match["name"]))  # a bare * would start emphasis
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return BLOCK.sub(block, text)


def rendered(name: str) -> str:
    """The Markdown of a block; of one without a record, or without rows, that it has not been run."""
    record, render = BLOCKS[name]
    path = RESULTS / f"{record}.json"
    if record is None:
        text = render({})
    else:
        text = render(json.loads(path.read_text())) if path.is_file() else ""
    return text.strip() or "Not run yet."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = False
    for path in DOCUMENTS:
        before = path.read_text()
        after = fill(before)
        stale |= before != after
        if not check:
            path.write_text(after)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
