"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audiopure.machine import settle

if TYPE_CHECKING:
    from audiopure.evaluation.certified.record import Certificates

settle()  # as commands do, and before the first matrix product

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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips named by what `evaluation_helpers.Ear` hears in them; for reading only."""
    from evaluation_helpers import write_words

    return write_words(tmp_path_factory.mktemp("words") / "heard")


@pytest.fixture(scope="session")
def certificates(data: Path) -> Certificates:
    """The certification of `certify_helpers`, in one go and in small blocks."""
    from certify_helpers import COMMON, SYSTEM

    import audiopure
    from audiopure.evaluation.certified import tallies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tallies, "BLOCK", 100)
        return audiopure.certify(SYSTEM, data, **COMMON)
