"""How the recipe `adversarial` trains.

    pgd       Madry et al. 2018, as the paper has it after Chen et al.: a share of every batch is attacked
    fast      one step from a random start (Wong et al. 2020)
    free      a batch is met several times; each gradient moves weights and change alike (Shafahi et al. 2019)
    yopo      one slope of all behind the front end serves several steps (Zhang, Zhang et al. 2019)
    trades    the answer to a clip is kept in its surroundings (Zhang et al. 2019), beside cross-entropy
    jacobian  no attack: the slope of the logits is penalised (eq. S28)

Attacks find the network in eval mode, so that they do not move the statistics of its normalisations; "free"
and "yopo" have no passes for the attack alone, and find it as it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from audiopure.attacks.ball import Ball
from audiopure.errors import InputError
from audiopure.noise import SeededNoise
from audiopure.training.adversarial_config import AdversarialConfig

FAST = 1.25  # step of "fast", relative to the budget (Wong et al.)

Loss = Callable[[Tensor, SeededNoise], Tensor]  # of waveforms (B, T): what is climbed, a sum over clips
Balls = Sequence[tuple[slice, Ball]]  # rows of a batch, and the set around them
Attack = Callable[[Loss, Ball, Tensor, SeededNoise], Tensor]  # its third argument: targets (B, C)


class Trained(Protocol):
    """What a method needs of the recipe.

    Attributes:
        moved: clips of the replay before, with their gradient; "free" keeps them here.
    """

    config: AdversarialConfig
    defence: nn.Module | None
    moved: Tensor | None

    def hear(self, model: nn.Module, wave: Tensor, noise: SeededNoise) -> Tensor:
        """Logits (B, C) in float32, through the defence if there is one."""
        ...

    def balls(self, wave: Tensor) -> Balls:
        """The rows of each budget, with the ball around them."""
        ...

    def error(self, model: nn.Module, targets: Tensor) -> Loss:
        """What attacks climb."""
        ...


def climb(loss: Loss, around: Ball, steps: int, step: float, noise: SeededNoise) -> Tensor:
    """Ascent from a random point of a ball, by steps relative to its radius. Shape: -> (B, T)."""
    x = around.random(noise)
    for number in range(steps):
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(point, noise.fresh(number)), point)
        x = around.project(x + step * around.eps * around.ascent(gradient))
    return x.detach()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """With soft targets. Shape: (B, C) twice -> (B,)."""
    return -(targets * logits.log_softmax(1)).sum(1)


def _attacked(
    recipe: Trained,
    model: nn.Module,
    wave: Tensor,
    targets: Tensor,
    noise: SeededNoise,
    attack: Attack,
) -> Tensor:
    """The waves with their first `ratio` attacked, the network in eval mode meanwhile."""
    count = max(1, round(recipe.config.ratio * len(wave)))
    found = wave.clone()
    training = model.training
    model.eval()
    for number, (rows, around) in enumerate(recipe.balls(wave[:count])):
        own = targets[:count][rows]
        found[:count][rows] = attack(recipe.error(model, own), around, own, noise.fresh(number))
    model.train(training)
    return found


def _pgd(recipe: Trained, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
    config = recipe.config

    def attack(error: Loss, around: Ball, own: Tensor, source: SeededNoise) -> Tensor:
        return climb(error, around, config.inner, config.step, source)

    found = _attacked(recipe, model, wave, targets, noise.fresh(0), attack)
    return cross_entropy(recipe.hear(model, found, noise.fresh(1)), targets).mean()


def _fast(recipe: Trained, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
    def attack(error: Loss, around: Ball, own: Tensor, source: SeededNoise) -> Tensor:
        return climb(error, around, 1, FAST, source)

    found = _attacked(recipe, model, wave, targets, noise.fresh(0), attack)
    return cross_entropy(recipe.hear(model, found, noise.fresh(1)), targets).mean()


def _free(recipe: Trained, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
    if not model.training:  # clips of a validation are met once
        return _pgd(recipe, model, wave, targets, noise)
    before, found = recipe.moved, wave.clone()
    for number, (rows, around) in enumerate(recipe.balls(wave)):
        if before is None or before.grad is None:
            found[rows] = around.random(noise.fresh(number))
        else:
            found[rows] = around.project(before[rows] + around.eps * around.ascent(before.grad[rows]))
    recipe.moved = found.detach().requires_grad_()
    return cross_entropy(recipe.hear(model, recipe.moved, noise), targets).mean()


def _yopo(recipe: Trained, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
    """YOPO-m-n with the front end as the first layer, n = `cheap` and m - 1 = `inner` / n.

    Each of the m passes gives the weights a gradient at the change that was reached, and the costate p at the
    front end's output, along which n steps through the front end alone move the change on. That the mean of
    the m losses counts and not their sum is ours, so that the learning rate means what it does elsewhere. The
    n steps after the last pass, which train nothing but a first layer's weights, are left out.
    """
    config = recipe.config
    if not hasattr(model, "classify") or recipe.defence is not None:
        raise InputError("yopo needs a network with `features` and `classify`, and no defence before it")
    count = max(1, round(config.ratio * len(wave)))
    balls, found = recipe.balls(wave[:count]), wave.clone()
    for number, (rows, around) in enumerate(balls):
        found[:count][rows] = around.random(noise.fresh(number))
    losses = []
    with torch.enable_grad():
        for left in reversed(range(config.inner // config.cheap + 1)):
            features = model.features(found).requires_grad_()  # type: ignore[operator]
            each = cross_entropy(model.classify(features).float(), targets)  # type: ignore[operator]
            losses.append(each.mean())
            if left:
                (costate,) = torch.autograd.grad(each.sum(), features, retain_graph=True)
                there = _along(model, costate[:count], found[:count], balls, config.cheap, config.step)
                found = torch.cat([there, wave[count:]])
    return torch.stack(losses).mean()


def _along(model: nn.Module, costate: Tensor, x: Tensor, balls: Balls, steps: int, step: float) -> Tensor:
    """Ascent of what the front end puts out along a costate. Shape: -> (B, T)."""
    for _ in range(steps):
        point = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((model.features(point) * costate).sum(), point)  # type: ignore[operator]
        x = x.clone()
        for rows, around in balls:
            x[rows] = around.project(x[rows] + step * around.eps * around.ascent(slope[rows]))
    return x


def _trades(recipe: Trained, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
    config, training = recipe.config, model.training
    model.eval()
    with torch.no_grad():
        answers = recipe.hear(model, wave, noise.fresh(0)).log_softmax(1)
    found = wave.clone()
    for number, (rows, around) in enumerate(recipe.balls(wave)):

        def apart(x: Tensor, source: SeededNoise, own: Tensor = answers[rows]) -> Tensor:
            return divergence(own, recipe.hear(model, x, source).log_softmax(1)).sum()

        found[rows] = climb(apart, around, config.inner, config.step, noise.fresh(1).fresh(number))
    model.train(training)
    clean = recipe.hear(model, wave, noise.fresh(2))
    moved = recipe.hear(model, found, noise.fresh(3)).log_softmax(1)
    kept = divergence(clean.log_softmax(1), moved)
    return cross_entropy(clean, targets).mean() + config.beta * kept.mean()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p | q) from logarithms of probabilities. Shape: (B, C) twice -> (B,)."""
    return (p.exp() * (p - q)).sum(1)


def _jacobian(recipe: Trained, model: nn.Module, wave: Tensor, targets: Tensor, noise: SeededNoise) -> Tensor:
    if recipe.config.slope == 0:
        return cross_entropy(recipe.hear(model, wave, noise.fresh(0)), targets).mean()
    logits, norm = logits_and_slope(recipe, model, wave, noise)
    return (cross_entropy(logits, targets) + recipe.config.slope * norm).mean()


def logits_and_slope(
    recipe: Trained, model: nn.Module, wave: Tensor, noise: SeededNoise
) -> tuple[Tensor, Tensor]:
    """Logits (B, C), and the Frobenius norm of their Jacobian (B,), logits per unit of the wave's L2 norm.

    The norm is found by a random projection: |J|^2 is labels times the mean of |v J|^2 (Hoffman 2019).
    """
    with torch.enable_grad():
        point = wave.detach().requires_grad_()
        logits = recipe.hear(model, point, noise.fresh(0))
        shape = (len(wave), logits.shape[1])
        v = nn.functional.normalize(noise.fresh(1).normal(shape, draw=0, device=wave.device), dim=1)
        (slopes,) = torch.autograd.grad((v * logits).sum(), point, create_graph=True)
        return logits, (shape[1] * slopes.square().sum(1) + 1e-12).sqrt()


# a new method is one function and one line here
METHODS: Mapping[str, Callable[[Trained, nn.Module, Tensor, Tensor, SeededNoise], Tensor]] = {
    "pgd": _pgd,
    "fast": _fast,
    "free": _free,
    "yopo": _yopo,
    "trades": _trades,
    "jacobian": _jacobian,
}
