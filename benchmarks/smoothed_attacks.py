"""Attacks on smoothed classifiers beside their certificates: smoothed_attacks.py --data FOLDER --work FOLDER

At each object PGD climbs the mean probability of wrong labels through the sampled noise, at several radii;
what it found is put to PREDICT, which is right, abstains or has another answer. A certificate promises that
the answer wins, not that PREDICT can tell: only another answer within a certified radius contradicts one. At
the waveform also Qin's attack, and heuristic defences without a certificate. Certificates are those of
certificates.py, of the same clips. Resumable: a line for each clip in the folder --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from certificate_tables import FINDINGS
from common import RESULTS, journal_of, machine, prepare, write_json
from pydantic import BaseModel
from rich.progress import track
from torch import Tensor, nn

from audiopure.attacks import Pgd
from audiopure.attacks.qin import Qin
from audiopure.certification.expected import ExpectedScores
from audiopure.certification.procedures import Predict
from audiopure.certification.smoothing import Sampler, Smoothed
from audiopure.choices import DEFENCES, choose
from audiopure.defences.proportional import ProportionalNoise
from audiopure.defended import takes
from audiopure.errors import InputError
from audiopure.evaluation.certified.record import Certificates
from audiopure.evaluation.certified.settings import CertifySettings, smoothed
from audiopure.evaluation.clips import Clips, item_of, load_clips
from audiopure.evaluation.journal import Journal
from audiopure.evaluation.reproduce.certified_tables import record as certified_record
from audiopure.noise import NoiseSource, SeededNoise
from audiopure.padding import at_least
from audiopure.psychoacoustics import distance_above_mask, share_above_mask
from audiopure.systems import System, load_system

PREDICT = 500  # draws of an answer
PASSES = 10  # fresh passes of a heuristic defence that is random


class Setting(NamedTuple):
    """A smoothed system under PGD.

    Attributes:
        name: of its rows.
        record: its certificates, by method and sigma.
        radii: of the attack.
    """

    name: str
    record: tuple[str, float]
    radii: tuple[float, ...]


WAVE = (0.05, 0.1, 0.25, 0.5)
SETTINGS = (
    Setting("waveform, purified", ("fine-tuned", 0.1), WAVE),
    Setting("waveform", ("vanilla", 0.1), WAVE),
    Setting("spectrogram", ("spectrogram", 1.0), (0.5, 1.0, 2.0, 4.0)),
    Setting("filterbank", ("filterbank", 0.25), (0.25, 0.5, 1.0, 2.0)),
    Setting("log-mel", ("log-mel", 8.0), (4.0, 8.0, 16.0, 32.0)),
)
HEURISTICS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "noise by the mask, k = 1": partial(ProportionalNoise, 0.0),
    "noise by the mask, k = 0.1": partial(ProportionalNoise, -1.0),
    "median": partial(choose, "defence", DEFENCES, "median"),
    "quantise": partial(choose, "defence", DEFENCES, "quantise"),
    "mp3": partial(choose, "defence", DEFENCES, "mp3"),
}


KEPT = ("system", "object", "sigma", "precision", "n", "alpha")  # of a record's settings


class Line(BaseModel):
    """One clip under a setting, or a heuristic defence.

    Attributes:
        attack: "pgd" or "qin".
        label: the clip's.
        certified: the certificate's answer, None where it abstains; radius: its own, whether right or wrong.
        clean: PREDICT's answer without an attack, None where it abstains.
        answers: attack, named by its radius, or "qin" -> PREDICT's answer to what it found.
        distance: L2 norm of what Qin's attack changed; above: dB above the masking threshold; heard: the
            share of time and frequency above it.
        shares: of a heuristic defence, attack -> share of fresh passes that are still right.
    """

    setting: str
    attack: str = "pgd"
    clip: str
    label: int
    certified: int | None = None
    radius: float = 0.0
    clean: int | None = None
    answers: dict[str, int | None] = {}
    distance: float | None = None
    above: float | None = None
    heard: float | None = None
    shares: dict[str, float] = {}

    @property
    def contradicted(self) -> list[str]:
        """Attacks within the certified radius that got another answer: certificates that were wrong."""
        sizes = {name: self.distance if name == "qin" else float(name) for name in self.answers}
        return [
            name
            for name, found in self.answers.items()
            if found not in (None, self.certified) and (sizes[name] or 0.0) < self.radius
        ]


class Lines(Journal[Line]):
    kind = Line

    def key(self, line: Line) -> tuple[str, str, str]:
        return line.setting, line.attack, line.clip


class Behind(nn.Module):
    """A recogniser behind a defence."""

    def __init__(self, defence: nn.Module, recogniser: nn.Module):
        super().__init__()
        self.defence, self.recogniser = defence, recogniser
        self.random = takes(defence, "noise")

    def forward(self, x: Tensor, *, noise: NoiseSource) -> Tensor:
        return self.recogniser(self.defence(x, noise=noise) if self.random else self.defence(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "smoothed-attacks.json")
    options = parser.parse_args()
    prepare(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    records = {setting.name: certificates(*setting.record) for setting in SETTINGS}
    facts = PREDICT, PASSES, [records[setting.name].weights for setting in SETTINGS]
    journal = Lines(journal_of(options.work / "smoothed-attacks.jsonl", *facts))
    known = {journal.key(line) for line in journal.read()}
    for setting in SETTINGS:
        record = records[setting.name]
        victim = Victim.of(record)
        clips = load_clips(options.data, victim.system.undefended, options.clips, 0)
        attacks: dict[str, Attacked] = {"pgd": partial(climbed, setting.radii)}
        if record.settings["object"] == "waveform":
            attacks["qin"] = hidden
        for attack, run in attacks.items():
            for clip, wave, target in track(list(seconds(clips)), description=f"{setting.name}, {attack}"):
                if (setting.name, attack, clip) not in known:
                    line = Line(setting=setting.name, attack=attack, clip=clip, label=target)
                    journal.append([run(victim, wave, victim.certified(line))])
    recogniser = load_system("digits").undefended
    clips = load_clips(options.data, recogniser, options.clips, 0)
    for name, make in HEURISTICS.items():
        for clip, wave, target in track(list(seconds(clips)), description=name):
            if (name, "pgd", clip) not in known:
                line = Line(setting=name, clip=clip, label=target)
                journal.append([heuristic(Behind(make(), recogniser).eval(), wave, line)])
    order = [*records, *HEURISTICS]
    found = sorted(journal.read(), key=lambda line: (order.index(line.setting), line.attack))
    lines = [line.model_dump() | {"contradicted": line.contradicted} for line in found]
    settings = [
        {"name": setting.name, **{key: records[setting.name].settings[key] for key in KEPT}}
        for setting in SETTINGS
    ]
    write_json(options.out, {"machine": machine(), "settings": settings, "lines": lines})


def certificates(method: str, sigma: float) -> Certificates:
    """A record of certificates.py."""
    found = certified_record(FINDINGS, method, sigma)
    if found is None:
        raise SystemExit(f"there are no certificates: run certificates.py --only {method}-{sigma:g}")
    return found


class Victim(NamedTuple):
    """A smoothed system and its certificates."""

    model: Smoothed
    system: System
    record: Certificates

    @classmethod
    def of(cls, record: Certificates) -> Victim:
        """The system that a record certifies; InputError if it has other weights by now."""
        settings = {key: record.settings[key] for key in ("system", "object", "sigma", "precision")}
        system = load_system(settings["system"])
        if dict(system.weights) != dict(record.weights):
            raise InputError(f"{settings['system']} has other weights than those that were certified")
        return cls(smoothed(CertifySettings(**settings), system), system, record)

    def certified(self, line: Line) -> Line:
        """With the clip's certificate."""
        found = next(clip for clip in self.record.clips if clip.id == line.clip)
        answer = None if found.answer is None else self.system.labels.index(found.answer)
        return line.model_copy(update={"certified": answer, "radius": found.radius})


Attacked = Callable[[Victim, Tensor, Line], Line]


def seconds(clips: Clips) -> Iterator[tuple[str, Tensor, int]]:
    """Each clip, padded to a second, with its name before and its target after it."""
    for name, wave, target in zip(clips.ids, clips.waveforms, clips.targets, strict=True):
        yield name, at_least(wave, 16_000), target


def climbed(radii: tuple[float, ...], victim: Victim, wave: Tensor, line: Line) -> Line:
    """PGD at the object, at each radius."""
    model, item = victim.model, item_of(line.clip)
    clean = model.predict(wave, Predict(PREDICT), seed=1, item=item)
    found = model.object(wave)
    mean = ExpectedScores(model, tuple(found.shape), scale=4 * float(found.abs().max()), draws=4)
    x, label = mean.flat(found[None]), torch.tensor([line.label])
    answers = {}
    for radius in radii:
        eps = radius / mean.scale
        attack = Pgd(norm="l2", eps=eps, steps=20, eot=2, step_size=eps / 2, momentum=0.75, bits=None)
        result = attack(mean, x, label, noise=SeededNoise(2).for_items([item]))
        answers[f"{radius:g}"] = answer(model, mean.whole(result.adversarial)[0], item)
    return line.model_copy(update={"clean": clean, "answers": answers})


def hidden(victim: Victim, wave: Tensor, line: Line) -> Line:
    """Qin's attack at the waveform."""
    model, item = victim.model, item_of(line.clip)
    mean, label = ExpectedScores(model, (16_000,), draws=4), torch.tensor([line.label])
    attack = Qin(sample_rate=16_000, eot=2)
    found = attack(mean, wave[None], label, noise=SeededNoise(2).for_items([item])).adversarial
    return line.model_copy(
        update={
            "clean": model.predict(wave, Predict(PREDICT), seed=1, item=item),
            "answers": {"qin": answer(model, found[0], item)},
            "distance": float((found[0] - wave).norm()),
            "above": float(distance_above_mask(wave[None], found, 16_000)),
            "heard": float(share_above_mask(wave[None], found, 16_000)),
        }
    )


def answer(model: Smoothed, found: Tensor, item: int) -> int | None:
    """PREDICT at an object, None where it abstains."""
    return Predict(PREDICT)(Sampler(model.base, model.law, found, 3, item))


def heuristic(model: Behind, wave: Tensor, line: Line) -> Line:
    """An empirical defence under PGD through it and its noise, by the mean over fresh passes."""
    item, label = item_of(line.clip), torch.tensor([line.label])
    passes = PASSES if model.random else 1

    def share(x: Tensor, seed: int) -> float:
        source = SeededNoise(seed).for_items([item])
        with torch.inference_mode():
            answers = [int(model(x, noise=source.fresh(k)).argmax()) for k in range(passes)]
        return answers.count(line.label) / passes

    shares = {"clean": share(wave[None], 1)}
    for radius in WAVE:
        eot, step = 4 if model.random else 1, radius / 2
        attack = Pgd(norm="l2", eps=radius, steps=20, eot=eot, step_size=step, momentum=0.75)
        result = attack(model, wave[None], label, noise=SeededNoise(2).for_items([item]))
        shares[f"{radius:g}"] = share(result.adversarial, 3)
    return line.model_copy(update={"shares": shares})


if __name__ == "__main__":
    main()
