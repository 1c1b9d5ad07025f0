"""Denoising of recordings plus white noise of known level: the compact purifier beside tuned baselines.

Baselines are tuned for every sigma on validation clips; every method then hears the same noisy test clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiopure.data import Dataset, collate, load_dataset
from audiopure.errors import InputError
from audiopure.evaluation.studies.wiener import DecisionDirectedWiener, NoiseReduce
from audiopure.metrics import si_sdr
from audiopure.noise import FORWARD, SeededNoise

SIGMAS = (0.005, 0.01, 0.0245, 0.05, 0.1, 0.25, 0.5)
# every set with the splits that nothing was trained or tuned on
TEST_SPLITS: Mapping[str, tuple[str, ...]] = {
    "sc09": ("test",),
    "commands10": ("test",),
    "fsdd": ("test",),
    "wakewords": ("test",),
    "librispeech": ("enroll", "test"),
}
# an estimate in which nothing of the signal is left has -inf dB, of which no mean can be taken
LEAST_DB = -50.0
BATCH = 16

Method = Callable[[Tensor, float, Tensor | None], Tensor]


@dataclass(frozen=True)
class NoisySet:
    """Clips in batches of similar length, clean and noisy, with the number of samples of each.

    Batches are tuples (clean (B, T), noisy (B, T), lengths (B,)); what lies beyond a clip's length is zero.
    """

    batches: tuple[tuple[Tensor, Tensor, Tensor], ...]
    sigma: float

    @classmethod
    def make(cls, clips: Sequence[Tensor], sigma: float, *, seed: int = 0) -> NoisySet:
        """Add noise that depends on the seed and the clip's place in the list alone."""
        order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        batches = []
        for start in range(0, len(order), BATCH):
            items = order[start : start + BATCH]
            clean, lengths = collate([clips[i] for i in items])
            noise = SeededNoise(seed).for_items(items).normal((len(items), clean.shape[1]), draw=FORWARD)
            inside = torch.arange(clean.shape[1]) < lengths[:, None]
            batches.append((clean, (clean + sigma * noise) * inside, lengths))
        return cls(tuple(batches), sigma)

    @torch.inference_mode()
    def score(self, method: Method | None) -> Tensor:
        """SI-SDR in dB after `method` (None: of the noisy clips), at least LEAST_DB. Shape: (clips,)."""
        scores = []
        for clean, noisy, lengths in self.batches:
            estimate = noisy if method is None else method(noisy, self.sigma, lengths)
            scores.append(si_sdr(estimate, clean))
        return torch.nan_to_num(torch.cat(scores), nan=LEAST_DB).clamp(min=LEAST_DB)


def wiener_grid() -> Iterator[DecisionDirectedWiener]:
    """Candidates among which the Wiener filter is chosen."""
    for alpha, xi_min, window in product(
        (0.8, 0.9, 0.94, 0.96, 0.98, 0.99), (-40, -25, -15), (320, 512, 1024)
    ):
        yield DecisionDirectedWiener(alpha=alpha, xi_min=xi_min, window=window, hop=window // 4)


def noisereduce_grid() -> Iterator[NoiseReduce]:
    """Candidates among which noisereduce is chosen; (500, 50) is its own default smoothing."""
    smoothings = ((None, None), (125, 32), (500, 50))
    for n_std, prop, n_fft, smooth in product(
        (1.0, 1.5, 2.0, 2.5, 3.0), (0.85, 0.95, 1.0), (512, 1024), smoothings
    ):
        yield NoiseReduce(
            n_std=n_std, prop_decrease=prop, n_fft=n_fft, smooth_hz=smooth[0], smooth_ms=smooth[1]
        )


@dataclass(frozen=True)
class Tuned:
    """The baselines chosen for one sigma."""

    wiener: DecisionDirectedWiener
    noisereduce: NoiseReduce

    @classmethod
    def on(cls, validation: NoisySet) -> Tuned:
        """Choose by mean SI-SDR on validation clips."""

        def best(grid: Iterator[Any]) -> Any:
            return max(grid, key=lambda method: validation.score(method).mean().item())

        return cls(best(wiener_grid()), best(noisereduce_grid()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuned:
        return cls(DecisionDirectedWiener(**values["wiener"]), NoiseReduce(**values["noisereduce"]))

    def to_dict(self) -> dict[str, Any]:
        return {"wiener": asdict(self.wiener), "noisereduce": asdict(self.noisereduce)}


def sample_clips(name: str, root: Path, count: int, seed: int = 0) -> list[Tensor]:
    """A stratified sample of at most `count` test clips at 16 kHz. Shape of each: (T,)."""
    return _sample(load_dataset(name, root), TEST_SPLITS[name], count, seed)


def tuning_clips(root: Path, count: int, seed: int = 0) -> list[Tensor]:
    """The clips of sc09 that baselines are tuned on."""
    return _sample(load_dataset("sc09", root), ("validation",), count, seed)


def _sample(dataset: Dataset, splits: Sequence[str], count: int, seed: int) -> list[Tensor]:
    held_out = dataset.with_clips(clip for clip in dataset if clip.split in splits)
    if not len(held_out):
        raise InputError(f"{dataset.name} has no clips in its splits {', '.join(splits)}.")
    return held_out.stratified(min(count, len(held_out)), seed).load_all()


def compare(noisy: NoisySet, tuned: Tuned, denoiser: Method) -> dict[str, Any]:
    """One row of the table: mean and median SI-SDR in dB of every method, who wins, and by how much.

    `margin_*` are mean differences to the baselines over the same clips, with their standard errors.
    """
    scores = {
        "noisy": noisy.score(None),
        "wiener": noisy.score(tuned.wiener),
        "noisereduce": noisy.score(tuned.noisereduce),
        "purifier": noisy.score(denoiser),
    }
    row: dict[str, Any] = {
        "sigma": noisy.sigma,
        "clips": len(scores["noisy"]),
        "mean": {name: round(values.mean().item(), 3) for name, values in scores.items()},
        "median": {name: round(values.quantile(0.5).item(), 3) for name, values in scores.items()},
    }
    row["best_mean"] = max(row["mean"], key=row["mean"].__getitem__)
    row["best_median"] = max(row["median"], key=row["median"].__getitem__)
    for name in ("wiener", "noisereduce"):
        difference = scores["purifier"] - scores[name]
        row[f"margin_{name}"] = round(difference.mean().item(), 3)
        row[f"margin_{name}_se"] = round(difference.std().item() / len(difference) ** 0.5, 3)
        row[f"clips_better_than_{name}"] = int((difference > 0).sum())
    return row


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean margins for each set, and the (set, sigma) pairs at which the purifier is not best."""
    names = dict.fromkeys(row["set"] for row in rows)

    def margin(name: str, baseline: str) -> float:
        values = [row[f"margin_{baseline}"] for row in rows if row["set"] == name]
        return round(sum(values) / len(values), 3)

    return {
        "mean_margin_over_wiener": {name: margin(name, "wiener") for name in names},
        "mean_margin_over_noisereduce": {name: margin(name, "noisereduce") for name in names},
        "lost_by_mean": [[r["set"], r["sigma"]] for r in rows if r["best_mean"] != "purifier"],
        "lost_by_median": [[r["set"], r["sigma"]] for r in rows if r["best_median"] != "purifier"],
    }
