"""Attacks behind one interface: `attack(model, waveform, labels, noise=...)` gives an `AttackResult`."""

from audiopure.attacks.base import Attack, AttackResult, predict, score
from audiopure.attacks.noise import RandomNoise
from audiopure.attacks.pgd import PAPER_BUDGETS, Pgd

__all__ = ["PAPER_BUDGETS", "Attack", "AttackResult", "Pgd", "RandomNoise", "predict", "score"]
