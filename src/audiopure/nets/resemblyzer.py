"""Resemble AI's speaker encoder (Wan et al. 2018, GE2E), with a differentiable front end and safe loading.

The package `resemblyzer` carries the weights; only that file is read, no code of the package runs. Against
the package, long silences are not cut out, which no gradient would pass.
"""

from __future__ import annotations

import math
import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from audiopure.errors import InputError, WeightsError
from audiopure.frontend import MelSpectrogram
from audiopure.padding import at_least

FRAMES, HOP = 160, 160  # of a part of an utterance; samples between frames
PARTS_PER_SECOND = 1.3
COVERAGE = 0.75  # of the last part that the utterance must fill
LEVEL = -30.0  # dB relative to full scale, to which quieter utterances are raised
BANDS, WIDTH, LAYERS = 40, 256, 3


class SpeakerEncoder(nn.Module):
    """Utterances to embeddings of length 1.

    Shape: waveforms (B, T) in [-1, 1] at 16 kHz -> (B, 256).
    """

    sample_rate = 16_000

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(self.sample_rate, 400, hop=HOP, n_mels=BANDS)
        self.lstm = nn.LSTM(BANDS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, waveform: Tensor) -> Tensor:
        """Embeddings; raises InputError unless there are waveforms (B, T)."""
        if waveform.ndim != 2 or waveform.shape[1] == 0:
            raise InputError(f"a speaker encoder takes waveforms (B, T), got shape {tuple(waveform.shape)}")
        starts = part_starts(waveform.shape[1])
        needed = (starts[-1] + FRAMES) * HOP
        clip = at_least(_raised(waveform), needed)
        mel = self.mel(clip).transpose(1, 2)
        parts = torch.stack([mel[:, start : start + FRAMES] for start in starts], 1)
        _, (hidden, _) = self.lstm(parts.flatten(0, 1))
        found = nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)
        return nn.functional.normalize(found.unflatten(0, (-1, len(starts))).mean(1), dim=1)


def part_starts(samples: int) -> list[int]:
    """First frames of the overlapping parts that an utterance is heard in."""
    frames = math.ceil((samples + 1) / HOP)
    step = round(SpeakerEncoder.sample_rate / PARTS_PER_SECOND / HOP)
    starts = list(range(0, max(1, frames - FRAMES + step + 1), step))
    covered = (samples - starts[-1] * HOP) / (FRAMES * HOP)
    return starts[:-1] if covered < COVERAGE and len(starts) > 1 else starts


def _raised(waveform: Tensor) -> Tensor:
    """Utterances quieter than `LEVEL` brought to it."""
    rms = waveform.square().mean(1, keepdim=True).clamp(min=1e-12).sqrt()
    return waveform * (10 ** (LEVEL / 20) / rms).clamp(min=1.0)


def load_resemblyzer(path: str | Path | None = None) -> SpeakerEncoder:
    """The published encoder, in eval mode with frozen parameters.

    Args:
        path: of `pretrained.pt`; by default that of the installed package `resemblyzer`.

    Raises WeightsError if the file is missing, is no plain checkpoint, or holds other weights.
    """
    if path is None:
        spec = find_spec("resemblyzer")
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                "the speaker encoder's weights come with a package: pip install --no-deps resemblyzer"
            )
        path = Path(spec.submodule_search_locations[0]) / "pretrained.pt"
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist or is not a file")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        encoder = SpeakerEncoder()
        known = set(encoder.state_dict())
        encoder.load_state_dict({name: value for name, value in stored.items() if name in known})
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError) as e:
        raise WeightsError(f"{path} is not the checkpoint of resemblyzer's encoder, or it is damaged") from e
    return encoder.eval().requires_grad_(False)
