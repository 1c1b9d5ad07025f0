"""Unconditional DiffWave: predicts the noise in a waveform at one step of a discrete diffusion.

Architecture of Kong et al., "DiffWave: A Versatile Diffusion Model for Audio Synthesis" (ICLR 2021), in the
unconditional form that AudioPure (ICLR 2023) purifies with, down to one detail on which published weights
rely: each block adds its step bias to its input *before* the residual branches off (see `ResidualBlock`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import InputError


class StepEmbedding(nn.Module):
    """Sinusoidal features of the step index, then two linear layers with SiLU.

    Feature k is sin(index * 10000^(-k / (sines - 1))), k = 0..sines-1; the cosines follow the sines. The
    index is continuous: fractions are as good as whole numbers.

    Shape: (B,) -> (B, outputs).
    """

    def __init__(self, features: int, hidden: int, outputs: int):
        super().__init__()
        self.sines = features // 2
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(hidden, outputs)

    def features(self, index: Tensor) -> Tensor:
        """The sines and cosines alone, in the precision of `index`: (B,) -> (B, features)."""
        k = torch.arange(self.sines, device=index.device, dtype=index.dtype)
        angle = index[:, None] * torch.exp(k * (-math.log(10_000) / (self.sines - 1)))
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def forward(self, index: Tensor) -> Tensor:
        features = self.features(index).to(self.first.weight.dtype)
        hidden = nn.functional.silu(self.first(features))
        return nn.functional.silu(self.second(hidden))


class ResidualBlock(nn.Module):
    """Gated dilated convolution with a residual and a skip output.

    The residual path carries x + step bias, not x: the released networks were trained that way (their code
    adds the bias in place), and with plain x their weights give wrong outputs.

    Shape: x (B, channels, T), embedding (B, E), outside (B, 1, T) or None -> residual (B, channels, T) or
    None for the last block, skip (B, skip_channels, T).
    """

    def __init__(self, channels: int, skip_channels: int, dilation: int, embedding: int, last: bool):
        super().__init__()
        self.step = nn.Linear(embedding, channels)
        self.dilated = nn.Conv1d(channels, 2 * channels, 3, dilation=dilation, padding=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, skip_channels, 1)
        self.last = last
        if last:  # published files hold this layer although nothing reads its output
            self.residual.requires_grad_(False)

    def forward(self, x: Tensor, embedding: Tensor, outside: Tensor | None) -> tuple[Tensor | None, Tensor]:
        x = x + self.step(embedding)[:, :, None]
        if outside is not None:  # what lies past a clip's end must look like the convolution's zero padding
            x = x.masked_fill(outside, 0)
        filtered, gate = self.dilated(x).chunk(2, dim=1)
        gated = torch.tanh(filtered) * torch.sigmoid(gate)
        residual = None if self.last else (x + self.residual(gated)) * math.sqrt(0.5)
        return residual, self.skip(gated)


class DiffWave(nn.Module):
    """Noise predictor eps(x_n, n) for waveforms of any length.

    The defaults are the published SC09 network: 24,034,305 parameters with weight normalisation fused into
    plain weights; its checkpoint stores 24,071,681 numbers, the norms of 37,376 output channels being kept
    apart. A new network starts at PyTorch's defaults with a zero output layer, hence predicts zero.

    Args:
        channels: residual channels.
        skip_channels: channels of the skip connections and of the head.
        layers: number of residual blocks.
        dilation_cycle: block i has dilation 2^(i mod dilation_cycle).
        embed_features: sines and cosines of the step embedding, an even number from 4.
        embed_hidden: width of its first linear layer.
        embed_out: width of its second.
        steps, beta_first, beta_last: the linear noise schedule that the weights belong to. `forward` does not
            use them; they travel with the weights so that whoever diffuses knows what the indices mean.

    Attributes:
        receptive_field: samples to each side that can influence an output sample.
        hop: 1, any sample may start a chunk.

    Raises:
        InputError: for sizes that make no network.
    """

    sample_rate = 16_000
    hop = 1

    def __init__(
        self,
        *,
        channels: int = 256,
        skip_channels: int = 256,
        layers: int = 36,
        dilation_cycle: int = 12,
        embed_features: int = 128,
        embed_hidden: int = 512,
        embed_out: int = 512,
        steps: int = 200,
        beta_first: float = 1e-4,
        beta_last: float = 0.02,
    ):
        super().__init__()
        self.config = {
            "channels": channels,
            "skip_channels": skip_channels,
            "layers": layers,
            "dilation_cycle": dilation_cycle,
            "embed_features": embed_features,
            "embed_hidden": embed_hidden,
            "embed_out": embed_out,
            "steps": steps,
            "beta_first": beta_first,
            "beta_last": beta_last,
        }
        _check_sizes(self.config)
        dilations = [2 ** (i % dilation_cycle) for i in range(layers)]
        self.receptive_field = sum(dilations)
        self.embed = StepEmbedding(embed_features, embed_hidden, embed_out)
        self.input = nn.Conv1d(1, channels, 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, skip_channels, dilation, embed_out, last=i == layers - 1)
            for i, dilation in enumerate(dilations)
        )
        self.head = nn.Conv1d(skip_channels, skip_channels, 1)
        self.output = nn.Conv1d(skip_channels, 1, 1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, index: float | Tensor, lengths: Tensor | None = None) -> Tensor:
        """Predict the unit-variance noise in x_n = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

        Args:
            x: noisy waveforms (B, T), T at least 1; never modified.
            index: step counted from 0 (the paper's step n is index n - 1), a number or (B,); fractions
            allowed.
            lengths: samples of each item (B,) that count. The rest is ignored, zero in the result, and the
                result equals that of the unpadded item.

        Returns:
            The noise (B, T), in the dtype of x.

        Raises:
            InputError: for shapes other than these.
        """
        index, outside = _check_inputs(x, index, lengths)
        embedding = self.embed(index)
        if outside is not None:
            x = x[:, None].masked_fill(outside, 0)[:, 0]
        hidden: Tensor | None = torch.relu(self.input(x[:, None].to(self.input.weight.dtype)))
        total: Tensor | None = None
        for block in self.blocks:
            hidden, skip = block(hidden, embedding, outside)
            total = skip if total is None else total + skip
        assert total is not None
        mean = total * math.sqrt(1 / len(self.blocks))
        noise = self.output(torch.relu(self.head(mean)))
        return (noise if outside is None else noise.masked_fill(outside, 0))[:, 0].to(x.dtype)


def _check_sizes(config: dict[str, int | float]) -> None:
    for name, value in config.items():
        if not name.startswith("beta") and (not isinstance(value, int) or value < 1):
            raise InputError(f"DiffWave needs a whole number of at least 1 for {name}, not {value!r}.")
    if config["embed_features"] < 4 or config["embed_features"] % 2:
        raise InputError(
            f"DiffWave needs an even embed_features of at least 4, not {config['embed_features']}."
        )
    if not 0 < config["beta_first"] <= config["beta_last"] < 1:
        raise InputError(
            "DiffWave needs 0 < beta_first <= beta_last < 1, "
            f"not {config['beta_first']} and {config['beta_last']}."
        )


def _check_inputs(x: Tensor, index: float | Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The index as a float (B,) and the mask (B, 1, T) of samples past each item's end."""
    if x.ndim != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise InputError(
            "DiffWave takes floating-point waveforms (batch, time) of at least one sample, "
            f"not {x.dtype} of shape {tuple(x.shape)}."
        )
    # half precision holds no fractions of an index above 128
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    index = torch.as_tensor(index, dtype=precision, device=x.device)
    if index.shape not in ((), (len(x),)):
        raise InputError(
            f"the step index must be a number or one for each of {len(x)} items, not {tuple(index.shape)}."
        )
    index = index.expand(len(x))
    if lengths is None:
        return index, None
    if lengths.shape != (len(x),):
        raise InputError(
            f"lengths must hold one number for each of {len(x)} items, not {tuple(lengths.shape)}."
        )
    time = torch.arange(x.shape[1], device=x.device)
    return index, (time >= lengths.to(x.device)[:, None])[:, None]
