"""Attacks on smoothed classifiers beside their certificates: smoothed_attacks.py --data FOLDER --work FOLDER

At each object PGD climbs the mean probability of wrong labels through the sampled noise, at several radii;
what it found is put to PREDICT, which is right, abstains or has another answer. A certificate promises that
the answer wins, not that PREDICT can tell: only another answer within a certified radius contradicts one. At
the waveform also Qin's attack, and heuristic defences without a certificate. Resumable: a line for each clip
in the folder --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from common import journal_of, machine, prepare, write_json
from pydantic import BaseModel
from rich.progress import track
from torch import Tensor, nn

from audiopure.attacks import Pgd
from audiopure.attacks.qin import Qin
from audiopure.certification.expected import ExpectedScores
from audiopure.certification.procedures import Certify, Predict
from audiopure.certification.smoothing import Sampler, Smoothed
from audiopure.defences.proportional import ProportionalNoise
from audiopure.evaluation.certified.settings import CertifySettings, smoothed
from audiopure.evaluation.clips import Clips, item_of, load_clips
from audiopure.evaluation.journal import Journal
from audiopure.noise import NoiseSource, SeededNoise
from audiopure.padding import at_least
from audiopure.systems import System, load_system

DRAWS, PREDICT = 1000, 500
PASSES = 10  # fresh passes of a heuristic defence


class Setting(NamedTuple):
    name: str
    system: str
    object: str
    sigma: float
    radii: tuple[float, ...]


SETTINGS = (
    Setting("waveform", "small+digits-denoised", "waveform", 0.1, (0.05, 0.1, 0.25, 0.5)),
    Setting("spectrogram", "digits", "spectrogram", 1.0, (0.5, 1.0, 2.0, 4.0)),
    Setting("filterbank", "digits", "filterbank", 0.25, (0.25, 0.5, 1.0, 2.0)),
    Setting("log-mel", "digits", "log-mel", 8.0, (4.0, 8.0, 16.0, 32.0)),
)
HEURISTICS = {"noise by the mask, k = 1": 0.0, "noise by the mask, k = 0.1": -1.0}


class Line(BaseModel):
    """One clip under a setting.

    Attributes:
        label: the clip's.
        certified: the certificate's answer, None where it abstains; radius: its own, whether right or wrong.
        clean: PREDICT's answer without an attack, None where it abstains.
        answers: attack, named by its radius, or "qin" -> PREDICT's answer to what it found.
        distance: L2 norm of what Qin's attack changed.
        shares: of a heuristic defence, attack -> share of fresh passes that are still right.
    """

    setting: str
    clip: str
    label: int
    certified: int | None = None
    radius: float = 0.0
    clean: int | None = None
    answers: dict[str, int | None] = {}
    distance: float | None = None
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

    def key(self, line: Line) -> tuple[str, str]:
        return line.setting, line.clip


class Behind(nn.Module):
    """A recogniser behind a defence that draws noise."""

    def __init__(self, defence: nn.Module, recogniser: nn.Module):
        super().__init__()
        self.defence, self.recogniser = defence, recogniser

    def forward(self, x: Tensor, *, noise: NoiseSource) -> Tensor:
        return self.recogniser(self.defence(x, noise=noise))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/smoothed-attacks.json"))
    options = parser.parse_args()
    prepare(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    weights = [dict(load_system(setting.system).weights) for setting in SETTINGS]
    facts = SETTINGS, HEURISTICS, DRAWS, PREDICT, PASSES, weights
    journal = Lines(journal_of(options.work / "smoothed-attacks.jsonl", *facts))
    known = {journal.key(line) for line in journal.read()}
    for setting in SETTINGS:
        system = load_system(setting.system)
        clips = load_clips(options.data, system.undefended, options.clips, 0)
        settings = CertifySettings(system=setting.system, object=setting.object, sigma=setting.sigma)
        model = smoothed(settings, system)
        for name, wave, target in track(list(seconds(clips)), description=setting.name):
            if (setting.name, name) not in known:
                journal.append([attacked(setting, model, wave, target, name)])
    for name, factor in HEURISTICS.items():
        system = load_system("digits")
        clips = load_clips(options.data, system.undefended, options.clips, 0)
        for clip, wave, target in track(list(seconds(clips)), description=name):
            if (name, clip) not in known:
                journal.append([heuristic(name, factor, system, wave, target, clip)])
    lines = [line.model_dump() | {"contradicted": line.contradicted} for line in journal.read()]
    settings = [setting._asdict() for setting in SETTINGS]
    write_json(options.out, {"machine": machine(), "settings": settings, "lines": lines})


def seconds(clips: Clips) -> Iterator[tuple[str, Tensor, int]]:
    """Each clip, padded to a second, with its name before and its target after it."""
    for name, wave, target in zip(clips.ids, clips.waveforms, clips.targets, strict=True):
        yield name, at_least(wave, 16_000), target


def attacked(setting: Setting, model: Smoothed, wave: Tensor, target: int, name: str) -> Line:
    item = item_of(name)
    certificate = model.certify(wave, Certify(n=DRAWS), seed=0, item=item)
    line = Line(
        setting=setting.name,
        clip=name,
        label=target,
        certified=certificate.label,
        radius=certificate.radius,
        clean=model.predict(wave, Predict(PREDICT), seed=1, item=item),
    )
    found = model.object(wave)
    climbed = ExpectedScores(model, tuple(found.shape), scale=4 * float(found.abs().max()), draws=4)
    x, label = climbed.flat(found[None]), torch.tensor([target])
    for radius in setting.radii:
        eps = radius / climbed.scale
        attack = Pgd(norm="l2", eps=eps, steps=20, eot=2, step_size=eps / 2, momentum=0.75, bits=None)
        result = attack(climbed, x, label, noise=SeededNoise(2).for_items([item]))
        line.answers[f"{radius:g}"] = answer(model, climbed.whole(result.adversarial)[0], item)
    if setting.name == "waveform":
        whole = ExpectedScores(model, (16_000,), draws=4)
        result = Qin(sample_rate=16_000, eot=2)(
            whole, wave[None], label, noise=SeededNoise(2).for_items([item])
        )
        line.answers["qin"] = answer(model, result.adversarial[0], item)
        line.distance = float((result.adversarial[0] - wave).norm())
    return line


def answer(model: Smoothed, found: Tensor, item: int) -> int | None:
    """PREDICT at an object, None where it abstains."""
    return Predict(PREDICT)(Sampler(model.base, model.law, found, 3, item))


def heuristic(name: str, factor: float, system: System, wave: Tensor, target: int, clip: str) -> Line:
    """An empirical defence under PGD through its noise, by the mean over fresh passes."""
    model = Behind(ProportionalNoise(factor), system.undefended).eval()
    item, label = item_of(clip), torch.tensor([target])

    def share(x: Tensor, seed: int) -> float:
        source = SeededNoise(seed).for_items([item])
        with torch.inference_mode():
            answers = [int(model(x, noise=source.fresh(k)).argmax()) for k in range(PASSES)]
        return answers.count(target) / PASSES

    line = Line(setting=name, clip=clip, label=target, shares={"clean": share(wave[None], 1)})
    for radius in SETTINGS[0].radii:
        attack = Pgd(norm="l2", eps=radius, steps=20, eot=4, step_size=radius / 2, momentum=0.75)
        result = attack(model, wave[None], label, noise=SeededNoise(2).for_items([item]))
        line.shares[f"{radius:g}"] = share(result.adversarial, 3)
    return line


if __name__ == "__main__":
    main()
