"""A configuration of the recipe `denoiser` that trains in a second."""

CONFIG = """
steps = 8
batch = 2
learning_rate = 1e-3
validate_every = 4
seconds = 0.1
validation_clips = 2
[network]
width = 8
blocks = 1
[datasets]
sc09 = 1.0
"""
