"""The gradient audit of an evaluation's rows, run first and kept beside the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from audiopure.atomic import write_text
from audiopure.errors import InputError
from audiopure.evaluation.auditing.audit import AuditReport, audit
from audiopure.evaluation.card import Gradient
from audiopure.evaluation.clips import batches
from audiopure.evaluation.engine import Evaluation
from audiopure.noise import SeededNoise

CLIPS = {"system": 2}  # audited of each row; of the others one
_TABLE = TypeAdapter(dict[str, Gradient])


def audited(work: Evaluation, *, allow_broken: bool = False) -> dict[str, Gradient]:
    """Audit every row, also of curves; what the folder already holds is not done again.

    Raises InputError for a break that nobody declared, unless `allow_broken`; then it stands on the card.
    """
    found = stored(work.folder)
    # the same clips whatever the shard
    some = next(batches(work.clips, max(CLIPS.values()), at_least=work.system.sample_rate))
    device = work.worker.device
    for contender in work.contenders:
        row = contender.planned
        batch = some.rows(some.index[: CLIPS.get(row.role, 1)]).to(device)
        if row.key not in found:
            noise = SeededNoise(work.config.seed).for_items(batch.items)
            model = contender.model.to(device)
            report = audit(
                model,
                batch.waveform,
                batch.labels,
                noise=noise,
                lengths=batch.lengths,
                draws=1,
                thorough=row.role != "variant",  # its modules are those of the system at another n*
            )
            found[row.key] = _gradient(report)
        gradient = found[row.key]
        if gradient.verdict == "broken" and not allow_broken:
            silent = ", ".join(gradient.silent) or "no single module is to blame"
            raise InputError(
                f"the gradient of “{row.title}” is broken (cosine {gradient.cosine or 0:.3f}; {silent}), so "
                "attacks by gradient would flatter it: see `audiopure audit`, or pass "
                "--allow-broken-gradient to have that on the card."
            )
        store(found, work.folder)
    return found


def stored(folder: Path) -> dict[str, Gradient]:
    """What an evaluation's folder holds; InputError if it is damaged."""
    path = folder / "audit.json"
    if not path.is_file():
        return {}
    try:
        return _TABLE.validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: is damaged; without it the gradients are audited anew.") from error


def store(found: Mapping[str, Gradient], folder: Path) -> None:
    """Write `audit.json`, whole or not at all."""
    write_text(folder / "audit.json", _TABLE.dump_json(dict(found), indent=1).decode())


def _gradient(report: AuditReport) -> Gradient:
    return Gradient(
        verdict=report.verdict,
        cosine=report.cosine,
        sign_agreement=report.sign_agreement,
        silent=list(report.silent),
        pairwise=report.pairwise,
        note=report.fallback,
    )
