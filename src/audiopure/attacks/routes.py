"""Ways for an attack's gradient through a purifier: the true one, and those that others have used.

A route changes what the attack differentiates, never what it is judged by. Every route but "exact" is an
approximation whose failure says nothing about the defence; tables name it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping

from torch import nn

from audiopure.diffusion.gradient import Full, Identity, NetworkConstant
from audiopure.diffusion.samplers import FewShot, OneShot
from audiopure.errors import InputError
from audiopure.purifier import Purifier


def _exact(purifier: Purifier) -> Purifier:
    return purifier if purifier.gradient.exact else purifier.replace(gradient=Full())


def _adjoint(purifier: Purifier) -> Purifier:
    from audiopure.diffusion.adjoint import Adjoint

    return purifier.replace(gradient=Adjoint())


def _shortened(calls: int) -> Callable[[Purifier], Purifier]:
    return lambda purifier: purifier.replace(sampler=FewShot(calls))


# a new route is one line here
ROUTES: Mapping[str, Callable[[Purifier], Purifier]] = {
    "exact": _exact,
    # the paper's, by torchsde
    "adjoint": _adjoint,
    # what the paper's released code does
    "network-constant": lambda purifier: purifier.replace(gradient=NetworkConstant()),
    # BPDA (Athalye et al. 2018): the reverse process counts as the identity
    "identity": lambda purifier: purifier.replace(gradient=Identity()),
    "forward-only": lambda purifier: purifier.replace(reverse=False),
    "reverse-only": lambda purifier: purifier.replace(forward=False),
    # a purifier with fewer, larger steps (Lee & Kim 2023): one; "surrogate-K" for K of them
    "surrogate": lambda purifier: purifier.replace(sampler=OneShot()),
    # no purifier at all: a transfer from the undefended model
    "blind": lambda purifier: purifier.replace(n_star=0),
}


def rerouting(route: str) -> Callable[[Purifier], Purifier]:
    """What a route makes of a purifier; InputError for an unknown one."""
    found = re.fullmatch(r"surrogate-([1-9]\d*)", route)
    change = _shortened(int(found[1])) if found else ROUTES.get(route)
    if change is None:
        raise InputError(f"there is no gradient route '{route}'; there are: {', '.join(ROUTES)}, surrogate-K")
    return change


def reroute(model: nn.Module, route: str) -> nn.Module:
    """A model that shares everything with `model` but the purifiers' gradients, which take `route`.

    Raises InputError for an unknown route, or for one other than "exact" if there is no purifier to reroute.
    """
    twin = with_purifiers(model, rerouting(route))
    if route != "exact" and not any(isinstance(module, Purifier) for module in model.modules()):
        raise InputError(f"the gradient route '{route}' needs a purifier, and the model holds none")
    return twin


def with_purifiers(module: nn.Module, change: Callable[[Purifier], nn.Module]) -> nn.Module:
    """A shallow copy of a model in which `change` has replaced every purifier; parameters stay shared."""
    if isinstance(module, Purifier):
        return change(module)
    parts = {name: part and with_purifiers(part, change) for name, part in module._modules.items()}
    if all(part is module._modules[name] for name, part in parts.items()):
        return module
    twin = copy.copy(module)
    twin._modules = parts
    return twin
