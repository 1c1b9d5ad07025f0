"""The operating point of the speakers' benchmark, and what its journal keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from audiopure.certification.bounds import Sums
from audiopure.certification.embeddings import verify


def units(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    found = rng.normal(size=(count, 5))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_sentence_is_tried_against_centroids_it_has_no_part_in(module: Any) -> None:
    found, speakers = units(np.random.default_rng(0), 8), list("abacbcad")  # one sentence alone
    own, other = module("certified_speakers").trials(found, speakers)
    expected, rivals = [], []
    for k, (sentence, speaker) in enumerate(zip(found, speakers, strict=True)):
        for name in "abcd":
            mates = [e for j, e in enumerate(found) if speakers[j] == name and j != k]
            if not mates:
                continue
            centre = np.mean(mates, axis=0)
            cosine = sentence @ centre / np.linalg.norm(centre)
            (expected if name == speaker else rivals).append(cosine)
    np.testing.assert_allclose(own, expected)
    np.testing.assert_allclose(np.sort(other), np.sort(rivals))


def test_claims_are_decided_from_what_the_journal_keeps(module: Any) -> None:
    rng = np.random.default_rng(1)
    near, far = (np.clip(rng.normal(mean, 0.05, 500), -1, 1) for mean in (0.9, 0.5))
    names: dict[str, Any] = {"base": "alone", "clip": "c", "speaker": "a", "identified": "a"}
    radii = dict.fromkeys(("vote", "identify", "hoeffding"), 0.0)
    own, rival = (Sums.of((1 + cosines) / 2) for cosines in (near, far))
    line = module("certified_speakers").Line(sigma=0.1, own=own, rival=rival, **names, **radii)
    again = type(line).model_validate_json(line.model_dump_json())
    claims = again.claims(0.75)
    assert claims["accept"] == pytest.approx(verify(near, 0.75, 0.1).radius) and claims["accept"] > 0
    assert claims["reject"] == pytest.approx(verify(far, 0.75, 0.1).radius) and claims["reject"] > 0
    assert again.claims(0.4)["reject"] == 0 and again.claims(0.95)["accept"] == 0
