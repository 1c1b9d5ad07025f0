"""What a user may name, each in one table from name to constructor."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from audiopure.errors import InputError


class Choice(NamedTuple):
    """A class by name, imported when chosen, and the arguments it is built with."""

    module: str
    name: str
    arguments: Mapping[str, Any] = {}

    @property
    def kind(self) -> Any:
        """The class itself."""
        return getattr(import_module(self.module), self.name)

    def build(self) -> Any:
        return self.kind(**self.arguments)


_SAMPLERS = "audiopure.diffusion.samplers"
SAMPLERS: Mapping[str, Choice] = {
    "ddpm": Choice(_SAMPLERS, "Ddpm"),
    "ddpm-beta": Choice(_SAMPLERS, "Ddpm", {"variance": "beta"}),
    "sde": Choice(_SAMPLERS, "ReverseSde"),
    "sde-beta": Choice(_SAMPLERS, "ReverseSde", {"variance": "beta"}),
    "sde-continuous": Choice(_SAMPLERS, "ReverseSde", {"continuous": True}),
    "sde-continuous-beta": Choice(_SAMPLERS, "ReverseSde", {"continuous": True, "variance": "beta"}),
    "ddim": Choice(_SAMPLERS, "Ddim"),
    "ode": Choice(_SAMPLERS, "ProbabilityFlow"),
    "one-shot": Choice(_SAMPLERS, "OneShot"),
    "two-shot": Choice(_SAMPLERS, "FewShot", {"count": 2}),
}
LEVELS: Mapping[str, Choice] = {
    "speech": Choice("audiopure.level", "SpeechLevel"),
    "fixed": Choice("audiopure.level", "FixedLevel"),
}
_GRADIENTS = "audiopure.diffusion.gradient"
GRADIENTS: Mapping[str, Choice] = {
    "full": Choice(_GRADIENTS, "Full"),
    "recompute": Choice(_GRADIENTS, "Recompute"),
    "network-constant": Choice(_GRADIENTS, "NetworkConstant"),
    "identity": Choice(_GRADIENTS, "Identity"),
    "adjoint": Choice("audiopure.diffusion.adjoint", "Adjoint"),
}
PRECISIONS = ("fp32", "bf16")
# a new attack is one file and one line here; `attacks.catalogue.build_attack` builds it with settings
_ATTACKS = "audiopure.attacks"
ATTACKS: Mapping[str, Choice] = {
    "pgd": Choice(f"{_ATTACKS}.pgd", "Pgd"),
    "apgd": Choice(f"{_ATTACKS}.apgd", "Apgd"),
    "autoattack": Choice(f"{_ATTACKS}.autoattack", "AutoAttack"),
    "cw": Choice(f"{_ATTACKS}.cw", "CarliniWagner"),
    "diffattack": Choice(f"{_ATTACKS}.diffattack", "DiffAttack"),
    "square": Choice(f"{_ATTACKS}.square", "Square"),
    "nes": Choice(f"{_ATTACKS}.nes", "Nes"),
    "spsa": Choice(f"{_ATTACKS}.nes", "Spsa"),
    "fakebob": Choice(f"{_ATTACKS}.fakebob", "Fakebob"),
    "fakebob-released": Choice(f"{_ATTACKS}.fakebob_released", "FakebobReleased"),
    "siren": Choice(f"{_ATTACKS}.siren", "Siren"),
    "kenansville": Choice(f"{_ATTACKS}.kenansville", "Kenansville"),
    "qin": Choice(f"{_ATTACKS}.qin", "Qin"),
    "low-frequency": Choice(f"{_ATTACKS}.low_frequency", "LowFrequency"),
    "universal": Choice(f"{_ATTACKS}.universal", "Universal"),
    "transfer": Choice(f"{_ATTACKS}.transfer", "Transfer"),
    "random": Choice(f"{_ATTACKS}.noise", "RandomNoise"),
}


_DEFENCES = "audiopure.defences"
# defences without weights; a new one is one file and one line here
DEFENCES: Mapping[str, Choice] = {
    "average": Choice(f"{_DEFENCES}.transformations", "AverageSmoothing"),
    "median": Choice(f"{_DEFENCES}.transformations", "MedianSmoothing"),
    "downsample": Choice(f"{_DEFENCES}.transformations", "Downsampling"),
    "low-pass": Choice(f"{_DEFENCES}.transformations", "LowPass"),
    "band-pass": Choice(f"{_DEFENCES}.transformations", "BandPass"),
    "quantise": Choice(f"{_DEFENCES}.transformations", "Quantisation"),
    "mp3": Choice(f"{_DEFENCES}.codec", "Codec", {"codec": "mp3"}),
    "opus": Choice(f"{_DEFENCES}.codec", "Codec", {"codec": "opus"}),
    "white-noise": Choice(f"{_DEFENCES}.denoising", "AdditiveNoise"),
    "gate": Choice(f"{_DEFENCES}.denoising", "SpectralGating"),
    "masked-noise": Choice(f"{_DEFENCES}.proportional", "ProportionalNoise"),
}
# what a weights file becomes as a defence, by its kind, where that is no purifier
LEARNED: Mapping[str, Choice] = {
    "enhancer": Choice(f"{_DEFENCES}.learned", "Enhancer"),
    "generator": Choice(f"{_DEFENCES}.learned", "DefenceGan"),
}


def choose(what: str, table: Mapping[str, Choice], name: str) -> Any:
    """Build the entry `name` of `table`; InputError lists the names there are."""
    if name not in table:
        raise InputError(f"there is no {what} '{name}'; there are: {', '.join(table)}.")
    return table[name].build()
