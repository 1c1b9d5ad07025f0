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
