"""Attacks behind one interface: `attack(model, waveform, labels, noise=...)` gives an `AttackResult`."""

from audiopure.attacks.base import Attack, AttackResult, predict, score
from audiopure.attacks.noise import RandomNoise
from audiopure.attacks.pgd import Pgd

__all__ = ["Attack", "AttackResult", "Pgd", "RandomNoise", "predict", "score"]
