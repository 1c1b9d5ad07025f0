"""Training of noise estimators as DDPM has it (eq. 6): the error of the noise, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

JUDGED = (1, 2, 3, 5, 10, 25, 50, 100, 200)  # steps of the schedule in validation, those there are

Error = Callable[[Tensor, Tensor, Tensor], Tensor]  # clips, 0-based steps, noise -> (B,)


def noise_error(model: nn.Module, alpha_bar: Tensor, clean: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each object's noise. Shape: (N,), (B, D), (B,), (B, D) -> (B,)."""
    kept = alpha_bar.to(clean.device)[index][:, None]
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    return (model(noisy, index).float() - noise).square().mean(1)


def judged(parts: Sequence[Tensor], size: int, steps: int, error: Error) -> dict[str, float]:
    """Mean errors at steps of the schedule on clips that come in parts, the same noise each time.

    The mean over steps is "loss", and minus the "score". Args: size: numbers of noise for each clip.
    """
    found = {}
    for number in (n for n in JUDGED if n <= steps):
        generator = torch.Generator().manual_seed(number)
        errors = [
            error(
                part,
                torch.full((len(part),), number - 1, device=part.device),
                torch.randn(len(part), size, generator=generator).to(part.device),
            )
            for part in parts
        ]
        found[f"error_{number}"] = torch.cat(errors).mean().item()
    loss = sum(found.values()) / len(found)
    return {"score": -loss, "loss": loss, **found}
