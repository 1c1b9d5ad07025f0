"""Purification of the log-mel spectrogram, between a recogniser's front end and its network (eq. 15).

DiffSpec is this alone. Forward noise on the waveform and one reverse step here is DualPure (Interspeech
2024): `small,reverse=no+FILE,sampler=one-shot+digits`.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from audiopure import hub
from audiopure.api import as_denoiser
from audiopure.defended import Guarded
from audiopure.diffusion.gradient import Gradient
from audiopure.diffusion.samplers import Sampler
from audiopure.errors import InputError
from audiopure.nets.mel_unet import MelUNet
from audiopure.noise import NoiseSource
from audiopure.padding import silenced
from audiopure.purifier import Purifier

KIND = "spectrum"  # of weights


def load_spectral_purifier(
    name_or_path: str | Path,
    *,
    n_star: float = 3,
    sampler: Sampler | None = None,
    gradient: Gradient | None = None,
) -> Purifier:
    """A purifier of spectrograms from a weights file, for `SpectralDefended`; eval mode, frozen, on the CPU.

    Its noise, schedule and steps are those its network was trained on, unlike in the paper's released code.

    Raises WeightsError if the weights cannot be used, InputError if a setting does not fit them.
    """
    net = hub.load(name_or_path, kind=KIND)
    if n_star > net.latest:  # type: ignore[operator]
        raise InputError(f"{name_or_path} was trained for n_star up to {net.latest}, got {n_star:g}")
    denoiser, schedule = as_denoiser(net, hub.describe(name_or_path))
    return Purifier(denoiser, n_star=n_star, schedule=schedule, sampler=sampler, gradient=gradient).eval()


class SpectralDefended(Guarded):
    """A recogniser with a purifier between its front end and its network.

    Args:
        model: a recogniser with `frontend`, `padded` and `from_log_mel` (`MelResNet`, `MelRecogniser`).
        purifier: as `load_spectral_purifier` gives it.

    Shape: waveforms (B, T) in [-1, 1] -> (B, labels).
    Raises InputError for a recogniser with another front end than the purifier's, or no batch of waveforms.
    """

    def __init__(self, model: nn.Module, purifier: Purifier):
        super().__init__(model, purifier)
        front, net = getattr(model, "frontend", None), self._net
        if not hasattr(model, "from_log_mel") or front is None:
            raise InputError(f"{type(model).__name__} has no log-mel spectrogram to purify")
        if front.config != net.config["frontend"]:
            raise InputError("the purifier was trained on the spectrograms of another front end")
        self.sample_rate = int(model.sample_rate)  # type: ignore[arg-type]

    @property
    def _net(self) -> MelUNet:
        net = getattr(self.purifier.denoiser, "net", None)
        if not isinstance(net, MelUNet):
            raise InputError("a purifier of waveforms cannot purify spectrograms")
        return net

    def forward(
        self, waveform: Tensor, *, lengths: Tensor | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """Logits of the purified spectrograms.

        Args:
            lengths: samples of each item of a padded batch; what lies beyond is heard as silence.
            noise: replay this noise; by default the source set by `replay`, else fresh secret noise.
        """
        if not waveform.is_floating_point() or waveform.ndim != 2 or waveform.shape[1] == 0:
            found = f"{waveform.dtype} {tuple(waveform.shape)}"
            raise InputError(f"expected floating-point waveforms (clips, time), got {found}")
        net, model = self._net, self.model
        if lengths is not None:
            waveform, _, _ = silenced(waveform, lengths)
        decibel = model.frontend(model.padded(waveform))  # type: ignore[operator]
        clean = self.purifier(net.scaled(decibel), noise=noise or self._noise)
        return model.from_log_mel(net.decibel(clean))  # type: ignore[operator]
