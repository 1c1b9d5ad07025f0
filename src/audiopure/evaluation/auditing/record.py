"""What the gradient audit found: the schema of the file that `audiopure audit --json` writes."""

from __future__ import annotations

from typing import Literal

from audiopure.evaluation.auditing.broken_modules import Kind
from audiopure.evaluation.card import Record

Verdict = Literal["exact", "declared", "broken"]


class Family(Record):
    """Slopes along directions of one kind, over all clips.

    Attributes:
        directions: of each clip.
        cosine: lowest over clips of that of measured and predicted slopes; 0 where one of them vanishes.
        sign_agreement: share of slopes whose sign is predicted.
        relative_error: largest over clips of |measured - predicted| over the larger of the two norms; 1 where
            both vanish.
    """

    directions: int
    cosine: float
    sign_agreement: float
    relative_error: float


class ClipFacts(Record):
    """One clip.

    Attributes:
        cosine: lowest of the judged families.
        gradient: L2 norm of the attack's gradient.
        along: slope measured along the attack's gradient, over its norm: 1 if exact; None where it vanishes.
        step: of the differences, in L2.
        rough: differences change with the step as they do where the loss jumps.
        flat: no difference moves the loss at all.
    """

    cosine: float
    gradient: float
    along: float | None
    step: float
    rough: bool
    flat: bool


class ModuleFacts(Record):
    """A module whose gradient is not the derivative of what it does; see `broken_modules.Break`."""

    name: str
    module: str
    kind: Kind
    declared: bool
    detail: str


class AuditReport(Record):
    """What the audit found; its file is `model_dump_json(by_alias=True)`.

    Attributes:
        schema: "audiopure-audit-1"; changes when a field changes its meaning.
        verdict: "exact"; "declared": an approximation that says so (BPDA), by its route or its modules, and
            nothing else is broken; "broken".
        summary: the verdict in one sentence.
        cosine: of the attack's gradient and the true one, lowest over clips and judged families.
        sign_agreement: share of random and smooth directions whose slope has the predicted sign.
        relative_error: of the slopes along random directions.
        families: "random" (isotropic), "smooth" (low frequencies), "samples", "gradient", "gradient sign".
        clips: one for each clip.
        modules: which modules' gradients are cut or wrong; also where the whole is exact nevertheless.
        error: what PyTorch said where no gradient could be taken, else None.
        route, loss, draws: of the attack; draws is 1 where draws are all the same.
        precision: "float64" or, if the model cannot run in it, "float32".
        fallback: why not float64, else None.
        pairwise: mean cosine of gradients of independent draws, 1 for a fixed model; None without gradients.
        eot: fewest draws whose mean gradient has an expected cosine of 0.9 with the true mean.
    """

    schema_: Literal["audiopure-audit-1"] = "audiopure-audit-1"
    verdict: Verdict
    summary: str
    cosine: float
    sign_agreement: float
    relative_error: float
    families: dict[str, Family]
    clips: list[ClipFacts]
    modules: list[ModuleFacts]
    error: str | None
    route: str
    loss: str
    draws: int
    precision: Literal["float64", "float32"]
    fallback: str | None
    pairwise: float | None
    eot: int | None

    @property
    def passed(self) -> bool:
        return self.verdict != "broken"

    @property
    def silent(self) -> list[str]:
        """Names of the modules at fault, with their classes."""
        return [f"{m.name or 'the model'} ({m.module}): {m.kind}" for m in self.modules]
