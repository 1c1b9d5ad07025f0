"""Put a purifier in front of a model, without touching the model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from audiopure.audio.resampling import resample_differentiable
from audiopure.errors import InputError
from audiopure.noise import NoiseSource

INNER = 2**32  # number of the noise of a defence behind another, none that an attack's draws use


class Defence(Protocol):
    """What may stand before a model: a `Purifier`, or one of `audiopure.defences`, always an `nn.Module`.

    Its class says `bpda = True` if its gradient is an approximation.
    """

    @property
    def random(self) -> bool:
        """Whether two passes differ."""
        ...

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    def __call__(
        self, waveform: Tensor, *, lengths: Tensor | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """Shape: (..., T) -> (..., T)."""
        ...


class Guarded(nn.Module):
    """A model and the defence before it, whose noise can be replayed.

    Noise is fresh on every call from the operating system's entropy, unless `replay` is active.

    Attributes:
        model: what is defended.
        purifier: what defends it, a module.
    """

    def __init__(self, model: nn.Module, purifier: Any):
        super().__init__()
        self.model = model
        self.purifier: Any = purifier  # mostly a `Purifier`, whose parts callers want to see
        # a plain attribute: a noise source is neither a parameter nor part of the state
        self._noise: NoiseSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a copy made within `replay` would keep the noise for ever, and a stored one would tell it
        return {**self.__dict__, "_noise": None}

    @contextmanager
    def replay(self, noise: NoiseSource) -> Iterator[Self]:
        """Within this context every call uses `noise`: the deterministic settings of an evaluation."""
        before, self._noise = self._noise, noise
        try:
            yield self
        finally:
            self._noise = before


class Defended(Guarded):
    """A model behind a purifier or another defence; called as the model is, it returns what that returns.

    The first positional argument is the waveform, (..., T) in [-1, 1]; the rest goes to the model unchanged.
    A keyword argument `lengths` (samples of each item) makes each item purified as if unpadded; it reaches
    the model only if the model's `forward` names it and there is no `frontend`, after which the model would
    count frames where `lengths` counts samples.
    """

    def __init__(
        self,
        model: nn.Module,
        purifier: Defence,
        *,
        frontend: nn.Module | None = None,
        sample_rate: int | None = None,
    ):
        super().__init__(model, purifier)
        self.frontend = frontend
        rate = sample_rate or getattr(model, "sample_rate", None) or purifier.sample_rate
        self.sample_rate = int(rate)

    def forward(
        self,
        waveform: Tensor,
        *args: Any,
        lengths: Tensor | None = None,
        noise: NoiseSource | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model's output for the purified waveform.

        Args:
            lengths: samples of each item of a padded batch.
            noise: replay this noise; by default the source set by `replay`, else fresh secret noise.
        """
        if not isinstance(waveform, Tensor) or not waveform.is_floating_point():
            raise InputError(
                "the first argument of a defended model is a floating-point waveform (..., time)"
            )
        clean = self.purify(waveform, lengths=lengths, noise=noise)
        if lengths is not None and self.frontend is None and takes(self.model, "lengths"):
            kwargs["lengths"] = lengths
        noise = noise or self._noise
        if noise is not None and isinstance(self.model, Guarded):
            kwargs["noise"] = noise.fresh(INNER)
        return self.model(clean if self.frontend is None else self.frontend(clean), *args, **kwargs)

    def purify(
        self, waveform: Tensor, *, lengths: Tensor | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """What the model gets to hear. Shape: (..., T) -> (..., T) at the model's own sample rate."""
        noise = noise or self._noise
        own, working = self.sample_rate, self.purifier.sample_rate
        if own == working:
            return self.purifier(waveform, lengths=lengths, noise=noise)
        return self._purify_resampled(waveform, lengths, noise, own, working)

    def _purify_resampled(
        self, waveform: Tensor, lengths: Tensor | None, noise: NoiseSource | None, own: int, working: int
    ) -> Tensor:
        beyond = None
        length, dtype = waveform.shape[-1], waveform.dtype
        x = waveform.float() if dtype in (torch.bfloat16, torch.float16) else waveform
        if lengths is not None:
            lengths = lengths.to(x.device)
            beyond = torch.arange(length, device=x.device) >= lengths[..., None]
            x = x.masked_fill(beyond, 0.0)
            lengths = -torch.div(-lengths * working, own, rounding_mode="floor")
        x = _resample(x, own, working, -(-length * working // own))
        x = _resample(self.purifier(x, lengths=lengths, noise=noise), working, own, length)
        return (x if beyond is None else x.masked_fill(beyond, 0.0)).to(dtype)


def takes(model: nn.Module, name: str) -> bool:
    """Whether `forward` names a keyword argument `name`; what merely wraps a module is looked through.

    `**kwargs` does not count: whoever collects arguments may not expect this one.
    """
    while (inner := _wrapped(model)) is not None:
        model = inner
    try:
        parameter = inspect.signature(model.forward).parameters.get(name)
    except ValueError:  # TorchScript hides it
        return False
    return parameter is not None and parameter.kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )


def _wrapped(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DataParallel | DistributedDataParallel):
        return model.module
    # what `torch.compile` returns has no public type
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else None


def _resample(x: Tensor, old: int, new: int, length: int) -> Tensor:
    """The first `length` samples of a signal that is zero outside x, at another rate; differentiable.

    The zeros are explicit because the resampler would repeat the edges, and a padded clip would then differ
    from the clip alone.
    """
    unit = old // math.gcd(old, new)  # a shift by whole units keeps the phase of the new sampling grid
    lead = unit * new // old
    needed = -(-(length + lead) * old // new) + 1
    x = torch.nn.functional.pad(x, (unit, max(1, needed - unit - x.shape[-1])))
    return resample_differentiable(x, old, new)[..., lead : lead + length]


def defend(
    model: nn.Module,
    purifier: Defence,
    *,
    frontend: nn.Module | None = None,
    sample_rate: int | None = None,
) -> Defended:
    """Put `purifier` in front of `model`.

    Args:
        model: any module whose first argument is a waveform (..., T) in [-1, 1], or features if `frontend` is
            given. It is used as it is, neither copied nor changed.
        purifier: see `load_purifier`.
        frontend: a differentiable module from waveform to the model's features; the model then never gets
            `lengths`.
        sample_rate: of the model, in Hz; by default the model's `sample_rate`, else the purifier's.

    Raises InputError if `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"defend needs a torch.nn.Module, got {type(model).__name__}")
    return Defended(model, purifier, frontend=frontend, sample_rate=sample_rate)
