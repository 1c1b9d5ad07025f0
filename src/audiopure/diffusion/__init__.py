"""Diffusion mathematics: schedules, reverse samplers, and how gradients pass through them."""
