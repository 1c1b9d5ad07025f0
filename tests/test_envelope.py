"""The best sigma at each radius, over finished certifications."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from certify_helpers import COMMON, SYSTEM, run_cli

import audiopure
from audiopure import InputError
from audiopure.evaluation.certified.envelope import methods, radii, read_certificates
from audiopure.evaluation.certified.record import Certificates, curve

RADII = {0.05: (0.1, 0.15, 0.12, 0.01), 0.25: (0.5, 0.0, 0.3, 0.0), 1.0: (0.0, 0.0, 2.0, 0.0)}


@pytest.fixture(scope="module")
def record(data: Path) -> Certificates:
    return audiopure.certify(SYSTEM, data, **{**COMMON, "n": 100, "limit": 4})


def with_radii(record: Certificates, sigma: float, **settings: object) -> Certificates:
    """The record as if these radii had been found, at that sigma; 0 abstains."""
    clips = [
        clip.model_copy(update={"radius": radius, "answer": clip.label if radius else None})
        for clip, radius in zip(record.clips, RADII[sigma], strict=True)
    ]
    settings = {**record.settings, "sigma": sigma, **settings}
    return record.model_copy(update={"clips": clips, "settings": settings, "curve": curve(clips)})


def test_the_envelope_has_the_largest_share_of_any_sigma(record: Certificates) -> None:
    (method,) = methods([with_radii(record, sigma) for sigma in (1.0, 0.05, 0.25)])
    assert [r.settings["sigma"] for r in method.records] == [0.05, 0.25, 1.0]
    for radius in (0.0, 0.01, 0.1, 0.11, 0.15, 0.3, 0.5, 1.0, 2.0, 3.0):
        shares = {s: np.mean([r > 0 and r >= radius for r in found]) for s, found in RADII.items()}
        best = method.best(radius)
        assert best.share.value == max(shares.values()) == shares[best.sigma]
        assert best.sigma == min(s for s, share in shares.items() if share == max(shares.values()))
    assert radii([method]) == [0.0, 0.05, 0.1, 0.25, 0.5, 1.0]


def test_an_infinite_radius_is_no_column(record: Certificates) -> None:
    found = with_radii(record, 0.25)
    clips = [found.clips[0].model_copy(update={"radius": math.inf}), *found.clips[1:]]
    assert radii(methods([found.model_copy(update={"clips": clips})])) == [0.0, 0.25]


def test_methods_are_told_apart_and_unlike_ones_refused(record: Certificates) -> None:
    one, other = with_radii(record, 0.05), with_radii(record, 0.25)
    votes = with_radii(record, 0.25, denoise="multi-step", votes=3)
    assert [len(m.records) for m in methods([one, votes, other])] == [2, 1]
    assert methods([votes])[0].title == f"{SYSTEM}, denoise multi-step, votes 3"
    with pytest.raises(InputError, match="is there twice"):
        methods([one, one])
    for change, what in (
        ({"clips": one.clips[:3]}, "set of clips"),
        ({"norm": "L1"}, "norm"),
        ({"settings": {**other.settings, "shape": "0:0,8000:-6"}}, "filter"),
        ({"object": "log-mel"}, "object"),
        ({"confidence": 0.9}, "confidence"),
    ):
        with pytest.raises(InputError, match=f"another {what}"):
            methods([one, other.model_copy(update=change)])
    with pytest.raises(InputError, match="no certification"):
        methods([])


def test_a_methods_sigmas_have_the_same_weights_and_arithmetic(record: Certificates) -> None:
    one, two = with_radii(record, 0.05), with_radii(record, 0.25)
    other = two.model_copy(update={"weights": {"digits": "0123"}})
    with pytest.raises(InputError, match=r"other weights at sigma 0\.25"):
        methods([one, other])
    half = with_radii(record, 0.25, precision="bf16")
    titles = [method.title for method in methods([one, half])]
    assert len(titles) == 2 and titles[1] == f"{titles[0]}, precision bf16"
    older = one.model_copy(update={"settings": {k: v for k, v in one.settings.items() if k != "claim"}})
    assert [method.title for method in methods([older])] == titles[:1]


def test_the_command_writes_what_its_records_say(record: Certificates, tmp_path: Path, capsys) -> None:
    folders = []
    for sigma in RADII:
        folders.append(tmp_path / f"{sigma:g}")
        folders[-1].mkdir()
        found = with_radii(record, sigma)
        text = found.model_dump_json(by_alias=True)
        (folders[-1] / "certificates.json").write_text(text)
        assert read_certificates(folders[-1]) == read_certificates(folders[-1] / "certificates.json") == found
    out = tmp_path / "out"
    for _ in range(2):  # a second time over the first
        assert run_cli("envelope", *map(str, folders), "--radii", "0,0.1,0.4", "-o", str(out)) == 0
    assert "75 %" in capsys.readouterr().out
    with (out / "envelope.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["sigma"] == "best"]
    assert [(float(r["radius"]), float(r["certified"]), float(r["of_sigma"])) for r in rows] == [
        (0.0, 1.0, 0.05),
        (0.1, 0.75, 0.05),
        (0.4, 0.25, 0.25),
    ]
    page, text = (out / "index.html").read_text(), (out / "report.md").read_text()
    assert (
        text.count("envelope**") == 1
        and page.count("<svg") > 1
        and "http" not in page.replace("http-equiv", "")
    )
    assert "sigma 0.25" in page and "25 % [1–81] (0.25)" in text


def test_bad_input_is_one_sentence_and_status_2(record: Certificates, tmp_path: Path, capsys) -> None:
    (tmp_path / "good.json").write_text(with_radii(record, 0.05).model_dump_json(by_alias=True))
    (tmp_path / "other.json").write_text(json.dumps({"schema": "audiopure-card-1"}))
    (tmp_path / "damaged.json").write_text(json.dumps({"schema": "audiopure-certificates-1"}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    good, out = str(tmp_path / "good.json"), str(tmp_path / "out")
    for words, said in (
        (["nowhere.json", "-o", out], "cannot be read"),
        ([str(tmp_path / "full"), "-o", out], "cannot be read"),
        ([str(tmp_path / "other.json"), "-o", out], "has the schema"),
        ([str(tmp_path / "damaged.json"), "-o", out], "is damaged"),
        ([good, good, "-o", out], "twice"),
        ([good, "--radii", "a,b", "-o", out], "numbers"),
        ([good, "--radii", "0,-1", "-o", out], "not below 0"),
        ([good, "-o", good], "is a file"),
        ([good, "-o", str(tmp_path / "full")], "something else"),
    ):
        assert run_cli("envelope", *words) == 2
        error = capsys.readouterr().err
        assert said in error and error.startswith("audiopure: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
