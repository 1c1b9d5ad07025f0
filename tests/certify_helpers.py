"""A tiny certification: its system, its settings, and what of its record must not depend on how it ran."""

from __future__ import annotations

from typing import Any

import pytest
from evaluation_helpers import CLIPS

from audiopure.evaluation.certified.record import Certificates

SYSTEM = "evaluation_helpers:system"
COMMON: dict[str, Any] = {"sigma": 0.02, "n": 700, "limit": CLIPS}


def found(record: Certificates) -> list[dict[str, Any]]:
    """What must not depend on how a certification was run."""
    return [clip.model_dump(exclude={"seconds"}) for clip in record.clips]


def run_cli(*arguments: str) -> int:
    from audiopure.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    code = stopped.value.code
    return 0 if code is None else int(code)


def written(radii: list[float], n: int, sigma: float = 0.5, precision: str = "bf16") -> Certificates:
    """A record of clips with these radii, all right."""
    clip = {"label": "one", "guess": "one", "implied": {}, "p": 0.9, "q": 0.1, "n": n, "counts": {}}
    clip |= {"explained": None, "seconds": 0.0, "answer": "one"}
    facts: dict[str, Any] = {"name": "sc09", "split": "test", "clips": len(radii), "of": 9}
    return Certificates.model_validate(
        {
            "command": "",
            "versions": {},
            "machine": {},
            "settings": {"n": n, "alpha": 0.001, "sigma": sigma, "precision": precision},
            "data": facts | {"note": None, "shard": None},
            "weights": {},
            "labels": ["one"],
            "object": "waveform",
            "unit": "1",
            "norm": "L2",
            "confidence": 0.999,
            "seconds": 0.0,
            "draws": 1,
            "clips": [clip | {"id": str(k), "radius": radius} for k, radius in enumerate(radii)],
            "curve": [],
        }
    )
