"""Convolution along frames against PyTorch's own, in double precision."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from audiopure.nets.frames import depthwise


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 4), st.integers(0, 3), st.integers(1, 40), st.booleans())
def test_convolution_along_frames_is_the_dilated_depthwise_one(
    frames: int, channels: int, reach: int, dilation: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(frames)
    kernels = torch.randn(channels, 1, 1, 2 * reach + 1, generator=generator, dtype=torch.float64)
    bias = torch.randn(channels, generator=generator, dtype=torch.float64) if biased else None
    x = torch.randn(2, frames, channels, generator=generator, dtype=torch.float64)
    expected = nn.functional.conv1d(
        x.mT, kernels[:, :, 0], bias, padding=dilation * reach, dilation=dilation, groups=channels
    )
    torch.testing.assert_close(depthwise(x, kernels, dilation, bias), expected.mT)
