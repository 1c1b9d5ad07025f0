"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_flush_denormal(True)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AUDIOPURE_DATA, else a `shared/data` folder beside the checkout, else a small generated `sc09`."""
    for candidate in (os.environ.get("AUDIOPURE_DATA"), SHARED / "data"):
        if candidate and (Path(candidate) / "sc09" / "manifest.csv").is_file():
            return Path(candidate)
    from audiopure.data.synthetic import write_dataset

    root = tmp_path_factory.mktemp("data")
    write_dataset(root / "sc09", clips_per_label=4, seed=0)
    return root
