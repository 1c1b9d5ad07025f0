"""The gradient audit of an evaluation's rows, run first and kept beside the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from audiopure.errors import InputError
from audiopure.evaluation.audit import AuditReport, audit
from audiopure.evaluation.card import Gradient
from audiopure.evaluation.engine import Evaluation
from audiopure.noise import SeededNoise

CLIPS = {"system": 2}  # audited of each row; of the others one
_TABLE = TypeAdapter(dict[str, Gradient])


def audited(work: Evaluation, *, allow_broken: bool = False) -> dict[str, Gradient]:
    """Audit the rows that attacks by gradient meet; what the folder already holds is not done again.

    Raises InputError for a break that nobody declared, unless `allow_broken`; then it stands on the card.
    """
    path = work.folder / "audit.json"
    found = _TABLE.validate_json(path.read_bytes()) if path.is_file() else {}
    whole = next(work.batches())
    for contender in work.contenders:
        row = contender.planned
        batch = whole.rows(whole.index[: CLIPS.get(row.role, 1)])
        if row.key in found or row.role == "variant":
            continue
        noise = SeededNoise(work.config.seed).for_items(batch.items)
        report = audit(
            contender.model, batch.waveform, batch.labels, noise=noise, lengths=batch.lengths, draws=1
        )
        found[row.key] = _gradient(report)
        if report.verdict == "broken" and not allow_broken:
            silent = ", ".join(report.silent) or "no single module is to blame"
            raise InputError(
                f"the gradient of “{row.title}” is broken (cosine {report.cosine:.3f}; {silent}), so attacks "
                "by gradient would flatter it: see `audiopure audit`, or pass --allow-broken-gradient to "
                "have that on the card."
            )
    _write(path, found)
    return found


def stored(folder: Path) -> Mapping[str, Gradient]:
    """What an evaluation's folder holds."""
    path = folder / "audit.json"
    return _TABLE.validate_json(path.read_bytes()) if path.is_file() else {}


def _write(path: Path, found: dict[str, Gradient]) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(_TABLE.dump_json(found, indent=1))
    partial.replace(path)


def _gradient(report: AuditReport) -> Gradient:
    return Gradient(
        verdict=report.verdict,
        cosine=report.cosine,
        sign_agreement=report.sign_agreement,
        silent=list(report.silent),
        pairwise=report.pairwise,
        note=report.fallback,
    )
