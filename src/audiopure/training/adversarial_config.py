"""Settings of the recipe `adversarial`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from audiopure.training.recogniser import PlainConfig

Norm = Literal["linf", "l2"]


class AdversarialConfig(PlainConfig):
    """Settings of the recipe, beside those of `recogniser`.

    Attributes:
        method: a name in `adversarial_methods.METHODS`.
        budgets: norm -> radius; the paper's are linf .002 and l2 .253.
        inner: steps of the attack; for "yopo" a multiple of `cheap`.
        step: of each of them, relative to the radius.
        ratio: share of the batch that is attacked ("pgd", "fast", "yopo").
        replays: of each batch ("free"); checkpoints and validations fall on whole ones.
        cheap: steps for one slope of the network ("yopo"); YOPO-m-n has n of them, and `inner` (m - 1) n.
        beta: weight of the second term ("trades").
        slope: weight of the Frobenius norm of the Jacobian, in units of cross-entropy for a change of one
            logit per unit of the waveform's L2 norm ("jacobian"); 0, for comparison, does without it.
        defence: what stands before the recogniser, as a system is written: "small", "small,reverse=no".
    """

    method: Literal["pgd", "fast", "free", "yopo", "trades", "jacobian"] = "pgd"
    budgets: dict[Norm, PositiveFloat] = Field(default={"linf": 0.002}, min_length=1)
    inner: int = Field(default=10, gt=0)
    step: float = Field(default=0.2, gt=0)
    ratio: float = Field(default=0.5, gt=0, le=1)
    replays: int = Field(default=4, gt=0)
    cheap: int = Field(default=3, gt=0)
    beta: float = Field(default=6.0, gt=0)
    slope: float = Field(default=1e-3, ge=0)
    defence: str | None = None
