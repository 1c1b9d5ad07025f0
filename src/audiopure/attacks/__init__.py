"""Attacks behind one interface: `attack(model, waveform, labels, noise=...)` gives an `AttackResult`."""

from audiopure.attacks.apgd import Apgd
from audiopure.attacks.autoattack import AutoAttack
from audiopure.attacks.base import Attack, AttackResult, predict, score
from audiopure.attacks.cw import CarliniWagner
from audiopure.attacks.diffattack import DiffAttack
from audiopure.attacks.fakebob import Fakebob
from audiopure.attacks.fakebob_released import FakebobReleased
from audiopure.attacks.kenansville import Kenansville
from audiopure.attacks.low_frequency import LowFrequency
from audiopure.attacks.nes import Nes, Spsa
from audiopure.attacks.noise import RandomNoise
from audiopure.attacks.pgd import PAPER_BUDGETS, Pgd
from audiopure.attacks.qin import Qin
from audiopure.attacks.siren import Siren
from audiopure.attacks.square import Square
from audiopure.attacks.transfer import MiFgsm, Transfer
from audiopure.attacks.universal import Universal

__all__ = [
    "PAPER_BUDGETS",
    "Apgd",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "CarliniWagner",
    "DiffAttack",
    "Fakebob",
    "FakebobReleased",
    "Kenansville",
    "LowFrequency",
    "MiFgsm",
    "Nes",
    "Pgd",
    "Qin",
    "RandomNoise",
    "Siren",
    "Spsa",
    "Square",
    "Transfer",
    "Universal",
    "predict",
    "score",
]
