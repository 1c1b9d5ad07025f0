"""audiopure: diffusion purification for audio models, with attacks and measurements that do not flatter.

import audiopure
purifier = audiopure.load_purifier("small")
defended = audiopure.defend(model, purifier)
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from audiopure.api import load_purifier, load_recogniser, purify
    from audiopure.defended import Defended, defend
    from audiopure.errors import AudiopureError, InputError, MissingExtraError, WeightsError
    from audiopure.evaluation.certified.run import certify
    from audiopure.evaluation.evaluate import evaluate
    from audiopure.level import FixedLevel, SpeechLevel
    from audiopure.noise import SeededNoise, system_noise
    from audiopure.purifier import Purifier

# Imported on first use: `audiopure --help` and `audiopure.__version__` should not wait for PyTorch.
_HOMES = {
    "load_purifier": "api",
    "load_recogniser": "api",
    "purify": "api",
    "Defended": "defended",
    "defend": "defended",
    "AudiopureError": "errors",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "WeightsError": "errors",
    "certify": "evaluation.certified.run",
    "evaluate": "evaluation.evaluate",
    "FixedLevel": "level",
    "SpeechLevel": "level",
    "SeededNoise": "noise",
    "system_noise": "noise",
    "Purifier": "purifier",
}

__all__ = [
    "AudiopureError",
    "Defended",
    "FixedLevel",
    "InputError",
    "MissingExtraError",
    "Purifier",
    "SeededNoise",
    "SpeechLevel",
    "WeightsError",
    "__version__",
    "certify",
    "defend",
    "evaluate",
    "load_purifier",
    "load_recogniser",
    "purify",
    "system_noise",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'audiopure' has no attribute '{name}'")
    value = getattr(import_module(f"audiopure.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
