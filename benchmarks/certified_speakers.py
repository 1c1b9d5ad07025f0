"""Certified speakers: benchmarks/certified_speakers.py --data PATH/librispeech --work FOLDER

The published encoder of resemblyzer, with and without the compact purifier's network before it, on the first
3.2 s of test sentences of enrolled speakers: identification among all of them, by votes (Cohen et al.) and by
the mean embedding, accepting the speaker's own claim, rejecting the claim to be the nearest other one. The
threshold is that of equal error rates among the enrolled sentences, each against the centroid of its
speaker's others and all other speakers' centroids. Resumable: a line for each clip, sigma and base in the
folder --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import journal_of, machine, prepare, write_json
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.progress import track
from torch import nn

import audiopure
from audiopure import hub
from audiopure.certification.bases import OneShot, Plain
from audiopure.certification.bounds import Sums
from audiopure.certification.draws import Purpose
from audiopure.certification.embeddings import Gallery, decided, identify, shares, unit
from audiopure.certification.laws import Gaussian
from audiopure.certification.smoothing import Rows, Sampler
from audiopure.data import Dataset, load_dataset
from audiopure.evaluation.clips import item_of
from audiopure.evaluation.journal import Journal
from audiopure.level import SpeechLevel
from audiopure.metrics import clopper_pearson_lower
from audiopure.nets.resemblyzer import load_resemblyzer
from audiopure.speakers import cut, enrol
from audiopure.systems import fingerprint

RATE = 16_000
SIGMAS = (0.005, 0.01, 0.025, 0.05, 0.1)
PILOT, DRAWS, ALPHA = 100, 1000, 0.001
ROWS = 20
PER_SPEAKER = 1  # test sentences


class Line(BaseModel):
    """One clip: who it is and who was certified, with the radii of right decisions, 0 for others.

    Attributes:
        vote: the radius of the identification by votes for the nearest centroid.
        identify: by the mean embedding; hoeffding: with Hoeffding's bound, which the released code uses.
        own, rival: sums of (1 + cosine) / 2 with the centroid of the speaker, and of the nearest other one.
    """

    base: str
    sigma: float
    clip: str
    speaker: str
    identified: str | None
    vote: float
    identify: float
    hoeffding: float
    own: Sums
    rival: Sums

    def claims(self, threshold: float) -> dict[str, float]:
        """The radii of accepting the speaker's own claim, and of rejecting the other one."""
        found = {}
        for name, sums in (("accept", self.own), ("reject", self.rival)):
            decision = decided(sums, threshold, self.sigma, ALPHA, "bernstein")
            found[name] = decision.radius if decision.decision == name else 0.0
        return found


class Lines(Journal[Line]):
    kind = Line

    def key(self, line: Line) -> tuple[str, float, str]:
        return line.base, line.sigma, line.clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of librispeech")
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/certified-speakers.json"))
    options = parser.parse_args()
    prepare(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    encoder = load_resemblyzer()
    denoiser = audiopure.load_purifier().denoiser
    dataset = load_dataset(options.data)
    enrolment = dataset.split("enroll")
    identifier = enrol(encoder, enrolment)
    gallery = Gallery(identifier.centroids.double().numpy())
    threshold = equal_error(encoder, enrolment)
    facts = PURPOSES, ALPHA, fingerprint(identifier), hub.digest("small")
    journal = Lines(journal_of(options.work / "certified-speakers.jsonl", *facts))
    known = {journal.key(line) for line in journal.read()}
    clips = [c for c in dataset.split("test") if c.label in identifier.labels]
    chosen = Dataset(dataset.name, dataset.root, clips, identifier.labels)
    chosen = chosen.stratified(min(len(clips), PER_SPEAKER * len(identifier.labels)), seed=0)
    for sigma in SIGMAS:
        behind = OneShot(denoiser, encoder, sigma, level=SpeechLevel())
        for base, model in (("alone", Plain(encoder)), ("denoised", behind)):
            for clip in track(list(chosen), description=f"{base}, sigma {sigma:g}"):
                if (base, sigma, clip.id) in known:
                    continue
                wave = cut(chosen.load(clip, RATE), RATE)
                sampler = Sampler(model, Gaussian(sigma), wave, 0, item_of(clip.id), Rows(ROWS))
                pilot, found = (drawn(sampler, *p) for p in PURPOSES)
                journal.append([line(base, sigma, clip, pilot, found, gallery, identifier.labels)])
    results = {
        "machine": machine(),
        "threshold": threshold,
        "speakers": len(identifier.labels),
        "draws": DRAWS,
        "alpha": ALPHA,
        "lines": [entry.model_dump() | entry.claims(threshold) for entry in journal.read()],
    }
    write_json(options.out, results)


PURPOSES: tuple[tuple[Purpose, int], ...] = (("pilot", PILOT), ("estimate", DRAWS))


def drawn(sampler: Sampler, purpose: Purpose, count: int) -> NDArray[np.float64]:
    """Embeddings of noisy versions. Shape: -> (count, D)."""
    return np.concatenate([unit(part) for part in sampler.scores(purpose, 0, count)])


def line(
    base: str,
    sigma: float,
    clip: object,
    pilot: NDArray[np.float64],
    found: NDArray[np.float64],
    gallery: Gallery,
    labels: tuple[str, ...],
) -> Line:
    label: str = clip.label  # type: ignore[attr-defined]
    own = labels.index(label)
    named = identify(pilot, found, gallery, sigma, alpha=ALPHA)
    loose = identify(pilot, found, gallery, sigma, alpha=ALPHA, method="hoeffding")
    units = gallery.centroids / np.linalg.norm(gallery.centroids, axis=1, keepdims=True)
    others = np.delete(units @ pilot.mean(0), own)
    rival = np.delete(np.arange(len(labels)), own)[others.argmax()]
    right = isinstance(named.decision, int) and named.decision == own
    return Line(
        base=base,
        sigma=sigma,
        clip=clip.id,  # type: ignore[attr-defined]
        speaker=label,
        identified=labels[named.decision] if isinstance(named.decision, int) else None,
        vote=voted(pilot, found, gallery, own, sigma),
        identify=named.radius if right else 0.0,
        hoeffding=loose.radius if loose.decision == own else 0.0,
        own=Sums.of(shares(found @ units[own])),
        rival=Sums.of(shares(found @ units[rival])),
    )


def voted(
    pilot: NDArray[np.float64], found: NDArray[np.float64], gallery: Gallery, own: int, sigma: float
) -> float:
    """The radius by CERTIFY of the classifier that names the nearest centroid; 0 unless it is right."""
    guess = np.bincount([gallery.nearest(each) for each in pilot]).argmax()
    if guess != own:
        return 0.0
    count = sum(gallery.nearest(each) == own for each in found)
    return Gaussian(sigma).radius(clopper_pearson_lower(count, len(found), ALPHA))


@torch.inference_mode()
def equal_error(encoder: nn.Module, dataset: Dataset) -> float:
    """The cosine with a centroid that as many own sentences fall below as others' reach.

    A sentence has no part in its own speaker's centroid here.
    """
    waves = dataset.load_all(RATE)
    found = torch.cat([encoder(cut(wave, RATE)[None]) for wave in waves]).double().numpy()
    own, other = (np.sort(part) for part in trials(found, [clip.label for clip in dataset]))
    grid = np.linspace(0, 1, 2001)[1:-1]
    missed = np.searchsorted(own, grid) / len(own)
    passed = 1 - np.searchsorted(other, grid) / len(other)
    return float(grid[np.abs(missed - passed).argmin()])


def trials(
    embeddings: NDArray[np.float64], speakers: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of each embedding with its speaker's centroid without it, and with all other centroids.

    Shape: (n, D) -> (m,), (n (S - 1),), m of speakers with two embeddings or more.
    """
    names = sorted(set(speakers))
    index = np.array([names.index(name) for name in speakers])
    sums = np.stack([embeddings[index == k].sum(0) for k in range(len(names))])
    cosines = embeddings @ (sums / np.linalg.norm(sums, axis=1, keepdims=True)).T
    rest = sums[index] - embeddings
    several = np.bincount(index)[index] > 1  # without its only sentence a speaker has no centroid
    own = (embeddings * rest).sum(1)[several] / np.linalg.norm(rest[several], axis=1)
    return own, cosines[index[:, None] != np.arange(len(names))]


if __name__ == "__main__":
    main()
