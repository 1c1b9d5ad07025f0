"""The numbers in the documents are those of the records: benchmarks/readme.py would change nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "benchmarks" / "readme.py"


def check(script: Path) -> int:
    command = [sys.executable, str(script), "--check"]
    return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode


@pytest.mark.skipif(not README.is_file(), reason="the benchmarks are no part of an installed package")
def test_every_table_is_what_its_record_says() -> None:
    assert check(README) == 0


@pytest.mark.skipif(not README.is_file(), reason="the benchmarks are no part of an installed package")
def test_a_number_changed_by_hand_is_found(tmp_path: Path) -> None:
    for name in ("benchmarks", "docs"):
        (tmp_path / name).mkdir()
    for path in (ROOT / "benchmarks").glob("*.py"):
        (tmp_path / "benchmarks" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "benchmarks" / "results").symlink_to(ROOT / "benchmarks" / "results")
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    copy = tmp_path / "benchmarks" / "readme.py"
    assert check(copy) == 0
    readme = tmp_path / "README.md"
    cell = re.compile(r"^(\| \*\*audiopure\*\* \| )\d", re.MULTILINE)
    text, count = cell.subn(r"\g<1>9", readme.read_text(encoding="utf-8"))
    assert count == 1
    readme.write_text(text, encoding="utf-8")
    assert check(copy) == 1


@pytest.mark.skipif(not README.is_file(), reason="the documents are no part of an installed package")
def test_every_picture_of_the_documents_is_there() -> None:
    shown = [
        path.parent / target
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for target in re.findall(r"!\[[^\]]*\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8"))
    ]
    assert len(shown) > 5 and [path for path in shown if not path.is_file()] == []
