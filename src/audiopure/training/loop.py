"""The training loop: visible, resumable, with an exponential moving average of the weights.

A batch is a function of (seed, step) alone, so a run that was killed and resumed sees what an uninterrupted
run would have seen and, on a CPU, ends with the same weights bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from audiopure.atomic import whole, write_text
from audiopure.errors import InputError
from audiopure.training.config import TrainConfig
from audiopure.training.together import team

Metrics = dict[str, float]


class Recipe(Protocol):
    """What is trained, on what, and how it is judged."""

    kind: str  # of weights, as `hub.save` wants it

    def build(self) -> nn.Module:
        """A freshly initialised network (the loop seeds its initialisation)."""
        ...

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The batch of this step, the same whenever it is asked for."""
        ...

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean loss of the batch."""
        ...

    def validate(self, model: nn.Module) -> Metrics:
        """Metrics on held-out data: "score" is the one to maximise.

        "loss" becomes "validation_loss" in the log, by which a run is known to have flattened.
        """
        ...


@dataclass
class Progress:
    """What the loop reports after every step."""

    step: int
    steps: int
    loss: float
    seconds_left: float
    validation: Metrics | None


def schedule(config: TrainConfig) -> Callable[[int], float]:
    """Learning-rate factor by step: linear warm-up, then a cosine down to one hundredth."""

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, config.warmup))
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))

    return factor


def train(
    recipe: Recipe,
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train until `config.steps`, resuming from `folder/state.pt` if it is there.

    With `config.patience` it ends sooner, once so many validations in a row were no better. In several
    processes (`together.joined`) each takes its share of every batch; the first validates and writes.

    Returns the averaged network of the best validation (EMA weights, eval mode) and the log, which is also in
    `folder/log.jsonl`, one JSON object a line. InputError if the folder holds a run with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = initialised(recipe, config).to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    optimiser = _optimiser(model, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule(config))
    parts = {"model": model, "average": average, "optimiser": optimiser, "scheduler": scheduler}
    state = _resume(folder / "state.pt", config, parts)
    autocast = config.precision == "bf16"
    started, first, since = time.monotonic(), state["step"], state["sum"]
    before = state["seconds"]
    together = team()
    last = config.steps if state["idle"] is None else first  # a run that has stopped early stays so

    for step, prepared in _batches(recipe, first, last):
        batch = tuple(part.to(device) for part in together.share(prepared))
        model.train()
        precision = torch.autocast(torch.device(device).type, torch.bfloat16) if autocast else nullcontext()
        with _seeded(config.seed, step, together.rank), precision:
            loss = recipe.loss(model, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        together.average(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if not torch.isfinite(norm):
            raise InputError(f"training diverged at step {step}: the gradient is not finite")
        optimiser.step()
        scheduler.step()
        _update(average, model, step, config.ema)
        since += loss.item()
        done = step + 1
        validation = None
        if together.leads and (done % config.validate_every == 0 or done == config.steps):
            average.eval()
            validation = recipe.validate(average.module)
            entry = {"step": done, "loss": since / (done - state["logged"])}
            entry |= {"validation_loss" if name == "loss" else name: v for name, v in validation.items()}
            state["log"].append(entry)
            state["logged"], since = done, 0.0
            state["since_best"] += 1
            if validation["score"] > state["best"]:
                state["best"], state["since_best"] = validation["score"], 0
                state["weights"] = {
                    k: v.detach().cpu().clone() for k, v in average.module.state_dict().items()
                }
        left = (time.monotonic() - started) / (done - first) * (config.steps - done)
        stop = False
        if done % config.validate_every == 0 and config.patience is not None:
            stop = together.agreed(state["since_best"] >= config.patience)
            state["idle"] = done if stop else None
        if together.leads:
            report(Progress(done, config.steps, loss.item(), left, validation))
            if validation is not None or done % config.checkpoint_every == 0:
                state.update(step=done, sum=since, seconds=before + time.monotonic() - started)
                _save(folder, state, config, parts)
        if stop:
            break

    if together.leads:
        _write_log(folder, state)  # a run killed right after its last checkpoint has not done so
    together.wait()
    if not together.leads:
        state = _resume(folder / "state.pt", config, parts)
    best = initialised(recipe, config).to(device)
    best.load_state_dict(state["weights"])
    return best.eval().requires_grad_(False), state["log"]


def initialised(recipe: Recipe, config: TrainConfig) -> nn.Module:
    """The network as a run begins with it, on the CPU."""
    with _seeded(config.seed, 0):
        return recipe.build()


def moved(first: nn.Module, last: nn.Module) -> float:
    """How far training has moved the weights, relative to their size: |w - w0| / |w0|."""
    begun = nn.utils.parameters_to_vector(first.parameters()).detach().double().cpu()
    ended = nn.utils.parameters_to_vector(last.parameters()).detach().double().cpu()
    return float((ended - begun).norm() / begun.norm())


def seconds_spent(folder: Path) -> float:
    """Seconds that the run in a folder has trained, all its resumptions together."""
    return float(torch.load(folder / "state.pt", weights_only=True, map_location="cpu")["state"]["seconds"])


def _batches(recipe: Recipe, first: int, steps: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Each step with its batch; the next batch is prepared in a thread while the current one trains."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(recipe.batch, first) if first < steps else None
        for step in range(first, steps):
            assert upcoming is not None
            batch = upcoming.result()
            upcoming = pool.submit(recipe.batch, step + 1) if step + 1 < steps else None
            yield step, batch


@contextmanager
def _seeded(seed: int, step: int, rank: int = 0) -> Iterator[None]:
    """Initialisation and dropout as functions of (seed, step) and the process.

    The caller's random state on the CPU stays untouched; GPUs keep the seed of the last step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + step + rank * (1 << 40))
        yield


def _optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    groups = _parameter_groups(model, config.weight_decay)
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def _parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only: decaying gains and biases has no meaning."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _update(average: AveragedModel, model: nn.Module, step: int, ema: float) -> None:
    """EMA whose window grows with the run, so that early validations do not see the initial weights."""
    decay = min(ema, (1 + step) / (10 + step))
    average.multi_avg_fn = get_ema_multi_avg_fn(decay)
    average.update_parameters(model)


def _resume(path: Path, config: TrainConfig, parts: Mapping[str, Any]) -> dict[str, Any]:
    start = {"step": 0, "logged": 0, "sum": 0.0, "log": [], "best": -math.inf, "weights": {}}
    start |= {"since_best": 0, "idle": None, "seconds": 0.0}
    if not path.is_file():
        return start
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        settings = saved["config"]
    except Exception as error:  # the unpickler fails in as many ways as bytes can be wrong
        raise InputError(f"{path} is damaged: remove it to start again") from error
    if settings != config.model_dump_json():
        raise InputError(f"{path.parent} holds a run with other settings: choose another folder or remove it")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return start | saved["state"]


def _save(folder: Path, state: dict[str, Any], config: TrainConfig, parts: Mapping[str, Any]) -> None:
    saved = {name: part.state_dict() for name, part in parts.items()}
    with whole(folder / "state.pt") as partial:
        torch.save({"config": config.model_dump_json(), "state": state, **saved}, partial)
    _write_log(folder, state)


def _write_log(folder: Path, state: dict[str, Any]) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in state["log"])
    write_text(folder / "log.jsonl", lines)
