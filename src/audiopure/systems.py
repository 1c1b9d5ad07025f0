"""Systems by name: defences in front of a recogniser, as one model to attack, certify or serve.

A system is written as the sound passes through it, parts joined by "+", options after commas:

    digits                                  a recogniser alone
    small+digits                            a purifier before it
    small,n_star=5,sampler=one-shot+digits  with settings
    diffspec.safetensors,n_star=2+digits    a purifier of the recogniser's spectrograms
    low-pass,cutoff=3000+small+digits       other defences, and several in sequence (`choices.DEFENCES`)
    small+my_package.models:build           a model of your own: an `nn.Module`, or a function that makes one
    small+ai8x,path=model.state_dict.pt     a format of others
    small+resemblyzer,enrol=FOLDER          a speaker encoder that names the speakers of a folder
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from audiopure import hub
from audiopure.api import load_purifier, load_recogniser
from audiopure.choices import DEFENCES, GRADIENTS, LEARNED, LEVELS, PRECISIONS, SAMPLERS, choose
from audiopure.defended import Defence, Guarded, defend
from audiopure.errors import InputError
from audiopure.purifier import Purifier
from audiopure.spectral import KIND, SpectralDefended, load_spectral_purifier
from audiopure.typed import converted

Options = Mapping[str, str]


@dataclass(frozen=True)
class System:
    """A model with what tables need to know about it.

    Attributes:
        spec: as written.
        model: waveforms (B, T) to logits (B, labels), in eval mode.
        undefended: the same model without its defences.
        labels: of the logits' columns.
        sample_rate: Hz.
        weights: first digits of the SHA-256 of every weights file, by name; of a model without one, of its
            parameters and settings.
    """

    spec: str
    model: nn.Module
    undefended: nn.Module
    labels: tuple[str, ...]
    sample_rate: int
    weights: Mapping[str, str]

    @property
    def defended(self) -> bool:
        return self.model is not self.undefended


def load_system(spec: str) -> System:
    """The system that `spec` names, on the CPU.

    Raises InputError for what cannot be understood or does not fit, WeightsError for weights that cannot be
    used.
    """
    parts = [_part(text) for text in spec.split("+")]
    (name, options), front = parts[-1], parts[:-1]
    recogniser = _recogniser(name, options)
    model: nn.Module = recogniser
    for defence, settings in reversed(front):
        model = _defended(model, defence, settings)
    named = [name for name, options in parts for name in (name, options.get("path", ""))]
    weights = {name: hub.digest(name) for name in named if name in hub.SHIPPED or Path(name).is_file()}
    if name not in weights and set(options) != {"path"}:  # which is all that a format of others has
        weights[name] = fingerprint(recogniser)
    return as_system(model.eval(), spec=spec, weights=weights)


def load_defence(spec: str, sample_rate: int = 16_000) -> nn.Module:
    """What stands before a recogniser in a system that is written "`spec`+recogniser"; a single defence.

    Raises InputError or WeightsError as `load_system` does.
    """
    name, options = _part(spec)
    found = _defence(name, options, sample_rate)
    assert isinstance(found, nn.Module)
    return found.eval()


def as_system(
    model: nn.Module, *, spec: str | None = None, weights: Mapping[str, str] | None = None
) -> System:
    """A model of one's own as a system: it, or the model that it defends, has `labels` and `sample_rate`.

    Raises InputError if it has not.
    """
    bare = model
    while isinstance(bare, Guarded):
        bare = bare.model
    labels, rate = getattr(bare, "labels", None), getattr(bare, "sample_rate", None)
    name = spec or type(model).__name__
    if labels is None or rate is None:
        raise InputError(
            f"{name}: the model needs the attributes `labels` (of its logits, in order) and `sample_rate`"
        )
    found = {name: fingerprint(model)} if weights is None else dict(weights)
    return System(name, model, bare, tuple(labels), int(rate), found)


@contextmanager
def unchanged(model: nn.Module | None) -> Iterator[None]:
    """Leaves a model's modes and device as they were."""
    modes = [] if model is None else [(module, module.training) for module in model.modules()]
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in tensors}
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        if model is not None and len(devices) == 1:
            model.to(devices.pop())


def fingerprint(model: nn.Module) -> str:
    """First 16 hex digits of a SHA-256 of a model's parameters, buffers, and what its `repr` shows."""
    known = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode())
    for name, value in model.state_dict().items():
        known.update(name.encode())
        if isinstance(value, Tensor):
            known.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return known.hexdigest()[:16]


def _part(text: str) -> tuple[str, dict[str, str]]:
    name, *settings = (word.strip() for word in text.split(","))
    if not name:
        raise InputError("a system is written as DEFENCE+RECOGNISER, for example small+digits")
    options = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not value:
            raise InputError(f"{text}: write settings as key=value")
        options[key] = value
    return name, options


def _recogniser(name: str, options: Options) -> nn.Module:
    if name in FORMATS:
        return FORMATS[name](options)
    if options:
        raise InputError(f"the recogniser '{name}' takes no settings, got {', '.join(options)}")
    if ":" in name and name not in hub.SHIPPED and not Path(name).exists():
        return _imported(name).eval()
    return load_recogniser(name)


def _imported(name: str) -> nn.Module:
    module, _, attribute = name.partition(":")
    if (
        os.getcwd() not in sys.path
    ):  # where users keep modules of their own; an installed command does not look
        sys.path.append(os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name}: cannot be imported ({error})") from error
    model = found() if callable(found) and not isinstance(found, nn.Module) else found
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} is neither a torch.nn.Module nor makes one")
    return model


def _ai8x(options: Options) -> nn.Module:
    from audiopure.nets.ai8x import load_ai8x

    if set(options) != {"path"}:
        raise InputError("ai8x takes one setting: path=FILE.state_dict.pt")
    return load_ai8x(options["path"]).eval().requires_grad_(False)


def _resemblyzer(options: Options) -> nn.Module:
    from audiopure.nets.resemblyzer import load_resemblyzer
    from audiopure.speakers import enrolled

    if "enrol" not in options or set(options) - {"enrol", "path"}:
        raise InputError(
            "resemblyzer takes enrol=FOLDER with the speakers' recordings, and path=pretrained.pt"
        )
    return enrolled(load_resemblyzer(options.get("path")), options["enrol"]).eval()


# formats of others by name; a new one is one function and one line here
FORMATS: Mapping[str, Callable[[Options], nn.Module]] = {"ai8x": _ai8x, "resemblyzer": _resemblyzer}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"'{text}' is not a number") from error


def _one_of(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise InputError(f"'{text}' must be {' or '.join(choices)}")
    return text


def _truth(text: str) -> bool:
    return _one_of(text, ("yes", "no")) == "yes"


_LOADING: Mapping[str, Callable[[str], Any]] = {
    "n_star": _number,
    "sampler": lambda name: choose("sampler", SAMPLERS, name),
    "level": lambda name: choose("level policy", LEVELS, name),
    "gradient": lambda name: choose("gradient", GRADIENTS, name),
    "precision": lambda name: _one_of(name, PRECISIONS),
}
SPECTRAL = ("n_star", "sampler", "gradient")  # of a purifier of spectrograms
_CHANGING: Mapping[str, Callable[[str], Any]] = {"reverse": _truth, "forward": _truth}


def _defended(model: nn.Module, name: str, options: Options) -> nn.Module:
    if name not in DEFENCES and hub.describe(name)["kind"] == KIND:
        return SpectralDefended(model, _purifier(name, options, load_spectral_purifier, SPECTRAL))
    return defend(model, _defence(name, options, int(getattr(model, "sample_rate", 16_000))))


def _defence(name: str, options: Options, sample_rate: int) -> Defence:
    """What stands before a model at `sample_rate`: one of `choices.DEFENCES`, or a purifier."""
    if name not in DEFENCES:
        return _weights(name, options)
    choice = DEFENCES[name]
    values = _settings(choice.kind, name, options, choice.arguments)
    return choice.kind(**{**choice.arguments, **values}, sample_rate=sample_rate)


NO_SETTINGS = ("return", "sample_rate", "net", "generator")  # of a defence's constructor


def _settings(kind: type, name: str, options: Options, fixed: Collection[str]) -> dict[str, Any]:
    """Settings of a defence, from text to what its constructor takes."""
    hints = get_type_hints(kind.__init__)
    known = [key for key in hints if key not in (*NO_SETTINGS, *fixed)]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise InputError(
            f"the defence '{name}' has no setting {unknown[0]}; it has: {', '.join(known) or 'none'}"
        )
    return {key: converted(text, hints[key], f"{name}: {key}") for key, text in options.items()}


def _weights(name: str, options: Options) -> Defence:
    """A defence that is a weights file."""
    kind = hub.describe(name)["kind"]
    if kind in LEARNED:
        made = LEARNED[kind].kind
        return made(hub.load(name), **_settings(made, name, options, ()))
    return _purifier(name, options, load_purifier, tuple(_LOADING))


def _purifier(name: str, options: Options, load: Callable[..., Purifier], known: Sequence[str]) -> Purifier:
    unknown = set(options) - set(known) - set(_CHANGING)
    if unknown:
        raise InputError(
            f"the purifier '{name}' has no setting {', '.join(sorted(unknown))}; "
            f"there are: {', '.join((*known, *_CHANGING))}"
        )
    purifier = load(name, **{key: _LOADING[key](options[key]) for key in options if key in known})
    changes = {key: _CHANGING[key](options[key]) for key in options if key in _CHANGING}
    return purifier.replace(**changes) if changes else purifier
