"""The purifier: forward diffusion to step n_star, then a reverse process back (section 3.2, eq. 13)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from audiopure.diffusion.denoiser import Denoiser
from audiopure.diffusion.gradient import Full, Gradient
from audiopure.diffusion.samplers import Ddpm, Sampler, Step
from audiopure.diffusion.schedule import NoiseSchedule
from audiopure.errors import InputError
from audiopure.level import FixedLevel, Level
from audiopure.noise import FORWARD, NoiseSource, system_noise
from audiopure.padding import on_clips


class Purifier(nn.Module):
    """Waveform in, purified waveform out, differentiable exactly.

    Args:
        denoiser: estimates the clean signal from signal plus white noise.
        n_star: diffusion steps of the schedule; 0 leaves the signal alone.
        schedule: the paper's linear one by default.
        sampler: the reverse process; DDPM by default.
        gradient: how gradients pass; exact by default.
        level: what is done about quiet and loud clips; nothing by default, unlike in `load_purifier`.
        reverse: False stops after the forward noise ("noise only", the control of every table).
        forward: False adds no forward noise ("reverse only", another control): the denoiser then sees less
            noise than it expects.

    Shape: (..., T) -> (..., T), float32 or float64 (bfloat16 and float16 work in float32 inside).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        n_star: float = 3,
        schedule: NoiseSchedule | None = None,
        sampler: Sampler | None = None,
        gradient: Gradient | None = None,
        level: Level | None = None,
        reverse: bool = True,
        forward: bool = True,
    ):
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule or NoiseSchedule.linear()
        self.sampler = sampler or Ddpm()
        self.gradient = gradient or Full()
        self.level = level or FixedLevel()
        self.n_star = n_star
        self.reverse = reverse
        self.forward_noise = forward
        if not 0 <= n_star <= len(self.schedule):
            raise InputError(f"n_star must lie between 0 and {len(self.schedule)}, got {n_star:g}")
        _ = self.steps  # a sampler may not do this n_star

    @property
    def steps(self) -> tuple[Step, ...]:
        """The reverse steps, noisiest first; none if the signal is left alone or only noise is added."""
        if self.n_star == 0 or not self.reverse:
            return ()
        return self.sampler.steps(self.schedule, self.n_star)

    @property
    def random(self) -> bool:
        """Whether two passes differ: they do unless it leaves the signal alone."""
        return self.n_star > 0

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms this purifier works on."""
        return self.denoiser.sample_rate

    @property
    def receptive_field(self) -> int:
        """Samples to each side of an output sample that can influence it through the network."""
        return self.denoiser.receptive_field * sum(step.calls for step in self.steps)

    @property
    def sigma(self) -> float:
        """Standard deviation of the forward noise relative to the levelled signal.

        Relative to the input it is this over the clip's gain: a certificate needs `FixedLevel`.
        """
        return self.schedule.sigma(self.n_star)

    def extra_repr(self) -> str:
        return (
            f"n_star={self.n_star:g}, sampler={self.sampler}, gradient={self.gradient}, level={self.level}, "
            f"reverse={self.reverse}, forward={self.forward_noise}"
        )

    def replace(self, **changes: object) -> Purifier:
        """A purifier that shares this one's denoiser, with some settings changed.

        Takes the keyword arguments of the constructor.
        """
        names = ("n_star", "schedule", "sampler", "gradient", "level", "reverse")
        settings = {name: getattr(self, name) for name in names} | {"forward": self.forward_noise}
        unknown = set(changes) - set(settings)
        if unknown:
            raise TypeError(f"a purifier has no setting {', '.join(sorted(unknown))}")
        twin = Purifier(self.denoiser, **{**settings, **changes})  # type: ignore[arg-type]
        return twin.train(self.training)

    def forward(
        self,
        waveform: Tensor,
        *,
        lengths: Tensor | None = None,
        noise: NoiseSource | None = None,
        start: int = 0,
        gain: Tensor | None = None,
    ) -> Tensor:
        """Purify.

        Args:
            waveform: (..., T) in [-1, 1] at `sample_rate`.
            lengths: samples of each item (same leading shape); what lies beyond is zero in the result, and
                the result is that of the unpadded item.
            noise: replayable noise; by default fresh noise from the operating system's entropy.
            start: absolute position of the first sample, when this is a piece of a longer recording.
            gain: the recording's gain (items, 1), when this is a piece of a longer recording.

        Raises InputError for an empty or non-floating waveform, or a wrong number of lengths.
        """
        return on_clips(waveform, lengths, lambda x, own: self._run(x, own, noise, start, gain))

    def _run(
        self, x: Tensor, lengths: Tensor | None, noise: NoiseSource | None, start: int, gain: Tensor | None
    ) -> Tensor:
        """Level, diffusion and reverse process. Shape: (B, T) -> (B, T)."""
        if self.n_star == 0:
            return x
        noise = noise or system_noise()
        if gain is None:
            gain = self.level.gain(self.level.energy(x))  # type: ignore[arg-type]
        if gain is None:
            return self._diffuse(x, lengths, noise, start)
        return self._diffuse(x * gain, lengths, noise, start) / gain

    def _diffuse(self, x: Tensor, lengths: Tensor | None, noise: NoiseSource, start: int) -> Tensor:
        def draw(number: int) -> Tensor:
            batch, length = x.shape
            return noise.normal((batch, length), draw=number, start=start, device=x.device, dtype=x.dtype)

        alpha_bar = self.sampler.start(self.schedule, self.n_star)
        x = math.sqrt(alpha_bar) * x
        if self.forward_noise:
            x = x + math.sqrt(1 - alpha_bar) * draw(FORWARD)
        if not self.reverse:
            return x / math.sqrt(alpha_bar)
        steps = self.steps
        draws = [draw(k) if step.noise > 0 else None for k, step in enumerate(steps, start=1)]
        return self.gradient(steps, self.denoiser, x, draws, lengths)
