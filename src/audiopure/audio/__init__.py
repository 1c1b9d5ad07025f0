"""Audio files and streams as tensors: reading, atomic writing, resampling, whole or in blocks."""

from audiopure.audio.headers import EXTENSIONS
from audiopure.audio.reading import AudioInfo, BlockReader, probe, read
from audiopure.audio.resampling import StreamResampler, resample, resample_differentiable
from audiopure.audio.writing import BlockWriter, write

__all__ = [
    "EXTENSIONS",
    "AudioInfo",
    "BlockReader",
    "BlockWriter",
    "StreamResampler",
    "probe",
    "read",
    "resample",
    "resample_differentiable",
    "write",
]
