"""A surrogate: a recogniser trained on what a system answers, for attacks that transfer (appendix B).

The attacker knows neither the recogniser nor its defence. It has clips of its own, asks the system once about
each, and trains a network of its choice on the answers ("model functional stealing").

The choice matters. Against the shipped defended system, attacks of L-inf .008 on a mel_resnet leave it 61 %
of 50 clips and the recogniser behind it 30 %; on an m5, 82 % of both. The mel_resnet hears 97 % of held-out
clips as the system does, the m5 91 %.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from audiopure import __version__, hub
from audiopure.attacks.base import predict
from audiopure.data.manifest import Dataset
from audiopure.errors import InputError
from audiopure.noise import SeededNoise
from audiopure.recognisers import build_recogniser
from audiopure.training.config import TrainConfig
from audiopure.training.corpus import Corpus
from audiopure.training.loop import Progress, train

RATE = 16_000
SHIFT = RATE // 10  # samples, to either side
HELD_OUT = 10  # one in so many clips judges the surrogate and trains nothing
# what each network needs to learn well within an hour of speech; others as the compact one
LEARNING_RATES = {"m5": 8e-3, "mel_resnet": 4e-3}


def train_surrogate(
    victim: nn.Module,
    dataset: Dataset,
    network: str = "mel_resnet",
    *,
    noise: SeededNoise,
    clips: int = 3000,
    passes: int = 1,
    steps: int = 600,
    batch: int = 64,
    path: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train a network on the class probabilities that a system returns; its labels in `dataset` are not used.

    Args:
        victim: waveforms (B, T) at 16 kHz to logits (B, C), in eval mode; it is asked about one second of
            each clip.
        dataset: the attacker's own clips; C labels, in the order of the victim's outputs.
        network: a name in `recognisers.RECOGNISERS`.
        noise: the only source of randomness, also of the training's: the same gives the same network.
        clips: how many clips, as equal in number over the labels as possible; all if there are fewer.
        passes: answers for each clip, of which the mean is learnt.
        steps: training steps of `batch` clips each.
        path: where to store the network, for `load_recogniser`.
        report: called after each training step.

    Returns the network in eval mode, frozen. Raises InputError if the victim has other classes than the
    dataset or the network is unknown.
    """
    chosen = dataset.stratified(min(clips, len(dataset)), seed=0)
    corpus = Corpus(chosen, sample_rate=RATE)
    answers = _answers(victim, corpus, noise.fresh(0), passes)
    if answers.shape[1] != len(dataset.labels):
        raise InputError(
            f"the victim has {answers.shape[1]} classes and {dataset.name} has {len(dataset.labels)} labels"
        )
    config = TrainConfig(
        seed=noise.fresh(1).seed % 2**31,
        steps=steps,
        batch=batch,
        learning_rate=LEARNING_RATES.get(network, LEARNING_RATES["mel_resnet"]),
        warmup=steps // 10,
        ema=0.99,
        validate_every=max(1, steps // 4),
        checkpoint_every=steps,
    )
    recipe = SurrogateRecipe(config, network, dataset.labels, corpus, answers)
    with TemporaryDirectory() as folder:
        surrogate, log = train(recipe, config, Path(folder), report=report)
    if path is not None:
        card = {
            "recipe": "surrogate",
            "network": network,
            "config": config.model_dump(),
            "version": __version__,
            "queries": len(corpus) * passes,
            "validation": max(log, key=lambda line: line["score"]),
        }
        hub.save(surrogate, path, kind=recipe.kind, card=card)
    return surrogate


class SurrogateRecipe:
    """Trains on `answers` (clips, C), the victim's class probabilities for the clips of `corpus`."""

    kind = "recogniser"

    def __init__(
        self, config: TrainConfig, network: str, labels: tuple[str, ...], corpus: Corpus, answers: Tensor
    ):
        self.config, self.network, self.labels = config, network, labels
        self.corpus, self.answers = corpus, answers
        everything = np.arange(len(corpus))
        # clips come label by label in turn, so equal distances would hold out one label
        self.held_out = np.random.default_rng(config.seed).permutation(everything)[: len(corpus) // HELD_OUT]
        self.training = np.setdiff1d(everything, self.held_out)

    def build(self) -> nn.Module:
        return build_recogniser(self.network, self.labels)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Shifted and noisy clips (B, T), two of them mixed now and then, and answers (B, C) to match."""
        rng = np.random.default_rng([self.config.seed, step])
        items = rng.choice(self.training, self.config.batch)
        wave = self.corpus.crops(items, rng.integers(-SHIFT, SHIFT + 1, len(items)), RATE)
        sigma = np.exp(rng.uniform(np.log(3e-4), np.log(0.04), (len(items), 1)))
        wave += torch.from_numpy(rng.standard_normal(wave.shape, dtype=np.float32) * sigma).float()
        answers = self.answers[items]
        share = torch.from_numpy(np.where(rng.random(len(items)) < 0.3, rng.beta(0.3, 0.3, len(items)), 1.0))
        share, partner = share.float()[:, None], torch.from_numpy(rng.permutation(len(items)))
        return (
            share * wave + (1 - share) * wave[partner],
            share * answers + (1 - share) * answers[partner],
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        wave, answers = batch
        return nn.functional.cross_entropy(model(wave).float(), answers)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The cross-entropy, and the agreement with the victim: the "stealing accuracy" of table A."""
        loss, agreed, count = 0.0, 0, max(1, len(self.held_out))
        for items in np.array_split(self.held_out, max(1, len(self.held_out) // 64)):
            logits, answers = model(self.corpus.crops(items, np.zeros(len(items)), RATE)), self.answers[items]
            loss += nn.functional.cross_entropy(logits, answers, reduction="sum").item()
            agreed += int((logits.argmax(1) == answers.argmax(1)).sum())
        return {"score": -loss / count, "loss": loss / count, "agreement": agreed / count}


def _answers(victim: nn.Module, corpus: Corpus, noise: SeededNoise, passes: int) -> Tensor:
    """Mean class probabilities over fresh passes. Shape: (clips, C)."""
    parts, weight = [], next(victim.parameters(), torch.empty(0))
    for items in np.array_split(np.arange(len(corpus)), max(1, len(corpus) // 64)):
        waveform = corpus.crops(items, np.zeros(len(items)), RATE).to(weight.device)
        heard = predict(victim, waveform, noise=noise.for_items(items.tolist()), passes=passes)
        parts.append(heard.mean(1).cpu())
    return torch.cat(parts)
