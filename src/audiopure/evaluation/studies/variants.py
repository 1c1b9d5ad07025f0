"""Which reverse process, how many steps, and what to do about level: choices made by measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiopure.attacks import Pgd, score
from audiopure.data import collate, load_dataset
from audiopure.defended import defend
from audiopure.diffusion.samplers import (
    Ddim,
    Ddpm,
    FewShot,
    OneShot,
    ProbabilityFlow,
    ReverseSde,
    Sampler,
)
from audiopure.level import FixedLevel, Level, SpeechLevel
from audiopure.metrics import clopper_pearson, si_sdr
from audiopure.noise import SeededNoise
from audiopure.purifier import Purifier

# section 3.3 of the paper: (discrete or continuous schedule) x (posterior variance or beta)
FOUR_COMBINATIONS: Mapping[str, Sampler] = {
    "SDE, discrete, beta_tilde": ReverseSde(continuous=False, variance="beta_tilde"),
    "SDE, discrete, beta": ReverseSde(continuous=False, variance="beta"),
    "SDE, continuous, beta_tilde": ReverseSde(continuous=True, variance="beta_tilde"),
    "SDE, continuous, beta": ReverseSde(continuous=True, variance="beta"),
}
SAMPLERS: Mapping[str, Sampler] = {
    **FOUR_COMBINATIONS,
    "DDPM": Ddpm(),
    "DDIM": Ddim(),
    "probability flow": ProbabilityFlow(),
    "one-shot": OneShot(),
    "few-shot, 2": FewShot(2),
}
LEVELS: Mapping[str, Level] = {
    "fixed": FixedLevel(),
    "0.05, 0.5 to 4": SpeechLevel(0.05, 0.5, 4.0),
    "0.1, 0.5 to 4": SpeechLevel(0.1, 0.5, 4.0),
    "0.1, 1 to 4": SpeechLevel(0.1, 1.0, 4.0),
    "0.1, 0.5 to 8": SpeechLevel(0.1, 0.5, 8.0),
    "0.1, 0.25 to 2": SpeechLevel(0.1, 0.25, 2.0),
    "0.2, 0.5 to 4": SpeechLevel(0.2, 0.5, 4.0),
}


@dataclass(frozen=True)
class Speech:
    """Labelled clips in one zero-padded batch: waveform (B, T), lengths (B,), targets (B,)."""

    waveform: Tensor
    lengths: Tensor
    targets: Tensor

    @classmethod
    def read(cls, root: Path, count: int | None = None, *, name: str = "sc09", seed: int = 0) -> Speech:
        """Test clips of a set: all, or a stratified sample of `count`."""
        dataset = load_dataset(name, root, "test")
        if count is not None:
            dataset = dataset.stratified(min(count, len(dataset)), seed)
        return cls(*collate(dataset.load_all()), dataset.targets())

    def __len__(self) -> int:
        return len(self.targets)

    def level(self) -> Tensor:
        """RMS of the active speech of each clip, as `SpeechLevel` measures it. Shape: (B,)."""
        unbounded = SpeechLevel(target=1.0, minimum=0.0, maximum=float("inf"))
        return 1 / unbounded.gain(unbounded.energy(self.waveform))[:, 0]

    def batches(self, size: int = 64) -> Iterator[tuple[Tensor, Tensor, Tensor, SeededNoise]]:
        """(waveform, lengths, targets, noise named by the clips) in order."""
        for rows in torch.arange(len(self)).split(size):
            noise = SeededNoise(0).for_items(rows.tolist())
            yield self.waveform[rows], self.lengths[rows], self.targets[rows], noise


@dataclass(frozen=True)
class Clean:
    """What purification does to clean clips: heard (B,) bool, SI-SDR (B,) in dB (inf where unchanged)."""

    heard: Tensor
    si_sdr: Tensor

    def row(self, among: Tensor | None = None) -> dict[str, Any]:
        """Accuracy with its 95 % interval and SI-SDR, over all clips or those that `among` (B,) selects."""
        chosen = torch.ones_like(self.heard) if among is None else among
        ratio = self.si_sdr[chosen]
        row: dict[str, Any] = proportion(self.heard[chosen])
        if bool(ratio.isfinite().all()):
            row["si_sdr_mean"] = round(ratio.mean().item(), 2)
            row["si_sdr_median"] = round(ratio.quantile(0.5).item(), 2)
        return row


@torch.inference_mode()
def clean_effect(purifier: Purifier, recogniser: nn.Module, speech: Speech) -> Clean:
    """Purify clean clips once each, with noise that belongs to the clip."""
    heard, ratio = [], []
    for waveform, lengths, targets, noise in speech.batches():
        purified = purifier(waveform, lengths=lengths, noise=noise)
        heard.append(recogniser(purified).argmax(1) == targets)
        ratio.append(si_sdr(purified, waveform))
    return Clean(torch.cat(heard), torch.cat(ratio))


def proportion(hits: Tensor) -> dict[str, Any]:
    """Share of true values with its exact 95 % interval, in percent."""
    count, total = int(hits.sum()), hits.numel()
    low, high = clopper_pearson(count, total)
    return {
        "correct": count,
        "clips": total,
        "accuracy": round(100 * count / total, 2),
        "interval": [round(100 * low, 2), round(100 * high, 2)],
    }


def sampler_row(
    purifier: Purifier, recogniser: nn.Module, speech: Speech, name: str, n_star: int
) -> dict[str, Any]:
    """One sampler at one number of steps: cost in network calls, accuracy and SI-SDR on clean clips."""
    variant = purifier.replace(sampler=SAMPLERS[name], n_star=n_star)
    row = {"sampler": name, "n_star": n_star, "calls": sum(step.calls for step in variant.steps)}
    return row | clean_effect(variant, recogniser, speech).row()


def steps_row(purifier: Purifier, recogniser: nn.Module, speech: Speech, n_star: int) -> dict[str, Any]:
    """Clean accuracy at n_star steps, purified and with the forward noise alone."""
    variant = purifier.replace(n_star=n_star)
    row: dict[str, Any] = {"n_star": n_star, "sigma": round(variant.sigma, 5)}
    row["purified"] = clean_effect(variant, recogniser, speech).row()
    row["noise only"] = clean_effect(variant.replace(reverse=False), recogniser, speech).row()
    return row


def level_row(purifier: Purifier, recogniser: nn.Module, speech: Speech, name: str) -> dict[str, Any]:
    """A level policy on clean clips: all of them, the quietest tenth, the loudest tenth."""
    effect = clean_effect(purifier.replace(level=LEVELS[name]), recogniser, speech)
    level = speech.level()
    return {
        "level": name,
        "all": effect.row(),
        "quietest tenth": effect.row(level <= level.quantile(0.1)),
        "loudest tenth": effect.row(level >= level.quantile(0.9)),
    }


def level_attacked(
    purifier: Purifier,
    recogniser: nn.Module,
    speech: Speech,
    name: str,
    norm: str,
    *,
    steps: int = 20,
    eot: int = 4,
    passes: int = 8,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """A level policy under PGD with exact gradients at the paper's budget.

    Accuracy is the mean over `passes` fresh passes; its interval is that of a single pass over the clips, the
    harshest reading. `worst` counts a clip only if every pass recognises it.
    """
    model = defend(recogniser, purifier.replace(level=LEVELS[name]))
    attack = Pgd.strong(norm, steps, eot)
    heard = []
    for waveform, lengths, targets, noise in speech.batches(50):
        result = attack(model, waveform, targets, noise=noise.fresh(1), lengths=lengths, progress=progress)
        heard.append(
            score(model, result.adversarial, targets, noise=noise.fresh(2), passes=passes, lengths=lengths)
        )
    passed = torch.cat(heard)
    return {
        "level": name,
        "attack": repr(attack),
        "mean_accuracy": round(100 * passed.float().mean().item(), 2),
        "one_pass": proportion(passed[:, 0]),
        "worst": proportion(passed.all(1)),
    }
