"""Every page in a real browser without a network: it shows, it plays, and nothing complains."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, opened
from evaluation_helpers import Ear, register, system

import audiopure
from audiopure.cli.main import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")


def report(data: Path, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        audiopure.evaluate(system(), data, protocol="tiny", limit=4, output=folder)
    return folder / "index.html"


def certificates(data: Path, folder: Path) -> Path:
    audiopure.certify(Ear(), data, sigma=0.02, n=100, limit=3, output=folder)
    return folder / "index.html"


def demo(data: Path, folder: Path) -> Path:
    short = ["--clips", "6", "--steps", "2", "--eot", "1", "--passes", "2", "--examples", "3"]
    with pytest.raises(SystemExit):
        main(["demo", "--output", str(folder), *short])
    return folder / "index.html"


@pytest.mark.parametrize("page", [report, certificates, demo])
def test_a_page_shows_and_plays_with_no_network(page, data: Path, tmp_path: Path) -> None:
    shown = page(data, tmp_path / "out")
    found = opened(shown, tmp_path)
    assert found["sounds"] and found["sounds"] == [["plays", True, True]] * len(found["sounds"])
    assert all(found["images"]) and not found["wide"]
    assert found["complaints"] == [] and found["console"] == [] and found["loaded"] == []
    assert not opened(shown, tmp_path, width=500)["wide"]


def test_a_fault_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html><head></head><body><p style='width: 3000px'>wide</p>"
        "<img src='https://example.org/a.png'><audio src='data:audio/wav;base64,UklGRg=='></audio>"
        "<script>undefined.nothing</script></body></html>"
    )
    found = opened(page, tmp_path)
    assert found["images"] == [False] and found["wide"] and found["console"]
    assert found["sounds"][0][0] != "plays" and len(found["complaints"]) >= 2
