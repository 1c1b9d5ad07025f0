"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from audiopure.machine import settle

if TYPE_CHECKING:
    from audiopure.evaluation.certified.record import Certificates

settle()  # as commands do, and before the first matrix product

SHARED = Path(__file__).resolve().parents[2] / "shared"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a benchmark by its name."""
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are no part of an installed package")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


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
