"""Recipe `denoiser`: the compact purifier, trained to estimate clean audio from audio plus white noise.

The loss is the logarithm of each clip's squared error. In thousands of dimensions that error hardly varies
for a given observation, so the logarithm keeps the minimiser (the posterior mean, as in eq. 6 of the paper)
while every noise level and loudness counts alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from audiopure.data.layouts import load_dataset
from audiopure.errors import InputError
from audiopure.metrics import si_sdr
from audiopure.nets.stft_denoiser import StftDenoiser
from audiopure.training.config import Strict, TrainConfig
from audiopure.training.corpus import Corpus

VALIDATION_SIGMAS = (0.005, 0.01, 0.0245, 0.05, 0.1, 0.25, 0.5)


class Network(Strict):
    width: int = Field(default=192, gt=0)
    blocks: int = Field(default=5, gt=0)
    expansion: int = Field(default=2, gt=0)
    taps: int = Field(default=1, ge=0)


class DenoiserConfig(TrainConfig):
    """Settings of the recipe. `datasets` maps names under the data folder to sampling weights."""

    network: Network = Network()
    datasets: dict[str, PositiveFloat] = Field(min_length=1)
    seconds: float = Field(default=1.0, ge=0.1)
    sigma_min: float = Field(default=0.001, gt=0)
    sigma_max: float = Field(default=1.0, gt=0)
    validation_set: str = "sc09"
    validation_clips: int = Field(default=96, gt=0)


class DenoiserRecipe:
    kind = "denoiser"
    nats = True

    def __init__(self, config: DenoiserConfig, root: Path):
        if config.sigma_min > config.sigma_max:
            raise InputError(
                f"sigma_min ({config.sigma_min:g}) must not exceed sigma_max ({config.sigma_max:g})"
            )
        self.config = config
        self.length = round(config.seconds * StftDenoiser.sample_rate)
        self.corpora = {name: Corpus(load_dataset(name, root, "train")) for name in config.datasets}
        weights = np.array(list(config.datasets.values()))
        self.weights = weights / weights.sum()
        held_out = load_dataset(config.validation_set, root, "validation")
        chosen = Corpus(held_out.stratified(min(config.validation_clips, len(held_out)), seed=0))
        self.audio = {f"{name} train": corpus.digest() for name, corpus in self.corpora.items()}
        self.audio[f"{config.validation_set} validation"] = chosen.digest()
        everything = np.arange(len(chosen))
        self.held_out = chosen.crops(everything, np.zeros(len(chosen)), self.length)

    def build(self) -> nn.Module:
        return StftDenoiser(**self.config.network.model_dump())

    def batch(self, step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.config.seed, step])
        counts = rng.multinomial(self.config.batch, self.weights)
        corpora = self.corpora.values()
        clean = torch.cat(
            [c.random_crops(n, self.length, rng) for c, n in zip(corpora, counts, strict=True) if n]
        )
        clean = augment(clean, rng)
        low, high = np.log(self.config.sigma_min), np.log(self.config.sigma_max)
        sigma = torch.from_numpy(np.exp(rng.uniform(low, high, len(clean)))).float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        return clean, sigma, noise

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        clean, sigma, noise = batch
        return left(model(clean + sigma[:, None] * noise, sigma), clean, sigma).mean()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """SI-SDR in dB at levels of noise; the loss is that of training, as a mean over them."""
        clean = self.held_out.to(next(model.parameters()).device)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        scores, losses = {}, []
        for sigma in VALIDATION_SIGMAS:
            estimate = model(clean + sigma * noise, sigma)
            scores[f"si_sdr_{sigma}"] = si_sdr(estimate, clean).mean().item()
            losses.append(left(estimate, clean, torch.full((len(clean),), sigma).to(clean)).mean().item())
        return {"score": sum(scores.values()) / len(scores), "loss": sum(losses) / len(losses), **scores}

    def product(self, model: nn.Module) -> nn.Module:
        return model


def left(estimate: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Logarithm of each clip's error relative to the noise. Shape: (B, T) twice, (B,) -> (B,)."""
    error = (estimate - clean).square().mean(1) / sigma.square()
    # 30 dB below the noise is as good as gone: silence must not dominate the batch
    return torch.log(error + 1e-3)


def augment(clean: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary what a purifier meets: level, bandwidth, background, clipping, tones. Shape: (B, T) -> (B, T)."""
    count, length = clean.shape

    def chosen(share: float) -> np.ndarray:
        return np.flatnonzero(rng.random(count) < share)

    mixed = chosen(0.15)
    clean[mixed] += clean[rng.permutation(count)[: len(mixed)]] * _column(rng.uniform(0.02, 0.5, len(mixed)))
    tonal = chosen(0.04)
    clean[tonal] = _chords(len(tonal), length, rng)
    clipped = chosen(0.03)
    clean[clipped] *= _column(rng.uniform(2, 8, len(clipped)))
    clean.clamp_(-1, 1)
    narrow = chosen(0.1)
    if len(narrow):
        spectrum = torch.fft.rfft(clean[narrow])
        cutoff = torch.from_numpy(rng.uniform(0.35, 0.9, len(narrow)))[:, None]
        keep = torch.linspace(0, 1, spectrum.shape[1]) < cutoff
        clean[narrow] = torch.fft.irfft(spectrum * keep, n=length)
    gain = np.ones(count)
    scaled = chosen(0.5)
    gain[scaled] = 10 ** rng.uniform(-0.9, 0.6, len(scaled))
    peak = clean.abs().amax(1, keepdim=True).clamp(min=1e-4)
    return clean * torch.minimum(_column(gain), 1 / peak)


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None]


def _chords(count: int, length: int, rng: np.random.Generator) -> Tensor:
    """Decaying harmonic chords, a stand-in for music. Shape: (count, length), peak at most 1."""
    time = np.arange(length) / StftDenoiser.sample_rate
    out = np.zeros((count, length))
    for row in out:
        for _ in range(rng.integers(1, 5)):
            pitch, onset = 55 * 2 ** rng.uniform(0, 4), rng.uniform(0, 0.6)
            envelope = np.where(time > onset, np.exp(-(time - onset) * rng.uniform(0.5, 8)), 0)
            for harmonic in range(1, int(min(rng.integers(2, 12), 7600 // pitch)) + 1):
                phase = rng.uniform(0, 2 * np.pi)
                row += envelope / harmonic * np.sin(2 * np.pi * pitch * harmonic * time + phase)
        row *= rng.uniform(0.05, 0.9) / (np.abs(row).max() + 1e-9)
    return torch.from_numpy(out.astype(np.float32))
