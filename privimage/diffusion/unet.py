"""The network F: a small U-Net with residual and attention blocks (paper: NCSN++).

In truth a DDPM++ U-Net (Song et al. 2021; docs/method.md, 3): BigGAN-style residual blocks, which
also change the resolution, self-attention at the listed resolutions and in the middle, label and
noise level in one embedding. Modules are registered in the order in which data meets them. Nothing
here knows private data; no batch statistics are used, so an example's output depends on that
example alone.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from privimage.errors import ConfigError

Resample = Literal["down", "up", None]  # halve the resolution, double it, keep it
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Size of the network; `num_classes` 0 makes it unconditional."""

    image_size: int
    num_channels: int
    num_classes: int
    # `settings.config.NetworkConfig` has these as well, for there each has to be given and is
    # checked; here the paper's serve audits and benchmarks. The order stands in run folders.
    base_channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2, 2)
    blocks_per_level: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        factor = 2 ** (len(self.channel_multipliers) - 1)
        if self.image_size < factor or self.image_size % factor:
            raise ConfigError(
                f"image_size is {self.image_size}, but {len(self.channel_multipliers)} levels need "
                f"a multiple of {factor}; change image_size or channel_multipliers"
            )

    def has_attention(self, level: int) -> bool:
        return self.image_size // 2**level in self.attention_resolutions


class UNet(nn.Module):
    """F(x, c_noise, labels) of the paper; about 0 at initialisation."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, width = config.base_channels, 4 * config.base_channels
        conditional = config.num_classes > 0
        # one more row: the null label, for images whose label was dropped
        self.label_embedding = nn.Embedding(config.num_classes + 1, base) if conditional else None
        self.embedding = nn.Sequential(_linear(base, width), nn.SiLU(), _linear(width, width))
        self.stem = _conv(config.num_channels, base, 3)
        self.encoder, skip_channels = _encoder(config)
        lowest = skip_channels[-1]
        middle = _block(config, lowest, lowest, attention=True), _block(config, lowest, lowest)
        self.middle = nn.ModuleList(middle)
        self.decoder = _decoder(config, skip_channels)
        top = base * config.channel_multipliers[0]
        self.norm = _group_norm(top)
        self.head = _conv(top, config.num_channels, 3, scale=1e-10)

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        c_noise: Float[Tensor, " batch"],
        labels: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch channel height width"]:
        embedding = positional_embedding(c_noise, self.config.base_channels)  # (batch, base)
        assert (labels is None) == (self.label_embedding is None), "labels go with num_classes > 0"
        if labels is not None and self.label_embedding is not None:
            embedding = embedding + self.label_embedding(labels)
        embedding = F.silu(self.embedding(embedding))  # (batch, 4 * base_channels)

        h = self.stem(x)  # (batch, base, height, width)
        skips = [h]  # what the decoder is given again, at the same resolution
        for block in self.encoder:
            h = block(h, embedding)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for block in self.decoder:
            # a block that doubles the resolution takes no skip
            h = h if block.resamples else torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding)
        return self.head(F.silu(self.norm(h)))


def positional_embedding(
    c_noise: Float[Tensor, " batch"], num_channels: int
) -> Float[Tensor, "batch channel"]:
    """Sine part, then cosine part, at frequencies from 1 down to 1e-4, evenly spaced in the log."""
    half = num_channels // 2
    position = torch.arange(half, device=c_noise.device, dtype=c_noise.dtype) / (half - 1)
    angles = c_noise[:, None] * torch.exp(-math.log(1e4) * position)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _encoder(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """Blocks from the top level down, and the channels of every skip (the stem's first)."""
    blocks, channels = nn.ModuleList(), config.base_channels
    skip_channels = [channels]
    for level, multiplier in enumerate(config.channel_multipliers):
        for _ in range(config.blocks_per_level):
            out, attention = config.base_channels * multiplier, config.has_attention(level)
            blocks.append(_block(config, channels, out, attention=attention))
            channels = out
            skip_channels.append(channels)
        if level < len(config.channel_multipliers) - 1:
            blocks.append(_block(config, channels, channels, resample="down"))
            skip_channels.append(channels)
    return blocks, skip_channels


def _decoder(config: UNetConfig, skip_channels: list[int]) -> nn.ModuleList:
    """Blocks from the lowest level up, one more a level than the encoder; one attention a level."""
    blocks, channels, skips = nn.ModuleList(), skip_channels[-1], list(skip_channels)
    for level, multiplier in reversed(list(enumerate(config.channel_multipliers))):
        for index in range(config.blocks_per_level + 1):
            out = config.base_channels * multiplier
            attention = config.has_attention(level) and index == config.blocks_per_level
            blocks.append(_block(config, channels + skips.pop(), out, attention=attention))
            channels = out
        if level > 0:
            blocks.append(_block(config, channels, channels, resample="up"))
    return blocks


class _Block(nn.Module):
    """A residual block, and attention after it where the resolution has it."""

    def __init__(self, residual: "_Residual", attention: nn.Module) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    @property
    def resamples(self) -> bool:
        return self.residual.resample is not None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(x, embedding))


def _block(
    config: UNetConfig,
    in_channels: int,
    out_channels: int,
    *,
    attention: bool = False,
    resample: Resample = None,
) -> _Block:
    residual = _Residual(
        in_channels,
        out_channels,
        embedding_size=4 * config.base_channels,
        resample=resample,
        dropout=config.dropout,
    )
    return _Block(residual, _Attention(out_channels) if attention else nn.Identity())


class _Residual(nn.Module):
    """(shortcut(x) + body(x, embedding)) / sqrt(2), both branches resampled alike."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embedding_size: int,
        resample: Resample,
        dropout: float,
    ) -> None:
        super().__init__()
        self.resample: Resample = resample
        self.norm_in = _group_norm(in_channels)
        self.conv_in = _conv(in_channels, out_channels, 3)
        self.embedding = _linear(embedding_size, out_channels)
        self.norm_out = _group_norm(out_channels)
        # a dropout of 0 would still count as a random operation under vmap
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv_out = _conv(out_channels, out_channels, 3, scale=1e-10)
        changes = in_channels != out_channels or resample is not None
        self.shortcut = _conv(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(_resampled(F.silu(self.norm_in(x)), self.resample))
        h = h + self.embedding(embedding)[:, :, None, None]  # the same at every position
        h = self.conv_out(self.dropout(F.silu(self.norm_out(h))))
        return (self.shortcut(_resampled(x, self.resample)) + h) * math.sqrt(0.5)


class _Attention(nn.Module):
    """Self-attention over all positions, one head; (x + h) / sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _group_norm(channels)
        self.query = _linear(channels, channels, scale=0.1)
        self.key = _linear(channels, channels, scale=0.1)
        self.value = _linear(channels, channels, scale=0.1)
        self.output = _linear(channels, channels, scale=1e-10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)  # (batch, position, channel)
        query, key, value = self.query(h), self.key(h), self.value(h)  # the same shape each
        # written out, because the fused kernels have no rule for vmap; one head, so the whole
        # channel dimension is the width that scores are divided by
        scores = query @ key.transpose(1, 2) / math.sqrt(x.shape[1])  # (batch, position, position)
        # a row of the softmax says what one position takes from all of its own image, never from
        # another row of the batch
        h = self.output(scores.softmax(dim=2) @ value)  # (batch, position, channel)
        return (x + h.transpose(1, 2).reshape(x.shape)) * math.sqrt(0.5)


def _resampled(x: Tensor, resample: Resample) -> Tensor:
    if resample == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if resample == "up" else x


def _group_norm(channels: int) -> nn.GroupNorm:
    num_groups = max(1, min(channels // 4, 32))
    if channels % 4 or channels % num_groups:
        raise ConfigError(
            f"a layer has {channels} channels, which {num_groups} groups do not divide; "
            "make base_channels a multiple of 32, or of 4 with at most 128 channels in any layer"
        )
    return nn.GroupNorm(num_groups, channels, eps=1e-6)


def _conv(in_channels: int, out_channels: int, kernel: int, *, scale: float = 1.0) -> nn.Conv2d:
    return _initialised(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), scale)


def _linear(in_features: int, out_features: int, *, scale: float = 1.0) -> nn.Linear:
    return _initialised(nn.Linear(in_features, out_features), scale)


def _initialised(layer: Layer, scale: float) -> Layer:
    """Variance scaling with fan_avg and a uniform law: Glorot's, its variance times `scale`."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
