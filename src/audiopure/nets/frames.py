"""Convolution along frames, for networks that keep the channels of a frame side by side."""

from __future__ import annotations

from torch import Tensor, nn


def depthwise(x: Tensor, kernels: Tensor, dilation: int, bias: Tensor | None = None) -> Tensor:
    """Each channel convolved along the frames with a kernel of its own, zeros beyond the ends.

    Shape: x (B, F, C), kernels (C, 1, 1, odd), bias (C,) -> (B, F, C).
    """
    frames = x.shape[1]
    short = -frames % dilation
    if short:
        x = nn.functional.pad(x, (0, 0, 0, short))
    # Frames that a kernel sees at once stand below each other in rows of `dilation` frames, and (B, F, C) is
    # read as a channels-last image: on a CPU this is several times faster than conv1d, and dilated
    # convolutions, which have no fast code there, cost no more than others.
    image = x.unflatten(1, (-1, dilation)).permute(0, 3, 1, 2)
    reach = kernels.shape[-1] // 2
    image = nn.functional.conv2d(
        image, kernels.transpose(2, 3), bias, padding=(reach, 0), groups=len(kernels)
    )
    return image.permute(0, 2, 3, 1).flatten(1, 2)[:, :frames]
