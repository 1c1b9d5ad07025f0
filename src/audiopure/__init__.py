"""audiopure: diffusion purification for audio models, with attacks and measurements that do not flatter."""

__version__ = "0.1.0"
