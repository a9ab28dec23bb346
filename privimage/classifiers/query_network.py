"""The query network: a classifier of the public images (paper: semantic query function).

The residual network of He et al. (2016) in its small-image form: 3x3 stem without pooling, stages
of strides 1, 2, 2, 2, global average pool. The paper's is a ResNet-50 for 32 pixels; the same class
goes down to a small CNN for 8 pixels. Trained on public images only: nothing here is private.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from privimage.classifiers.synced_norm import synced
from privimage.data.image_set import to_model_range
from privimage.errors import ConfigError
from privimage.machine.hardware import autocast, resolved_precision
from privimage.run_folder.runlog import RunLog
from privimage.run_folder.training_context import BY_ITSELF, TrainingContext
from privimage.settings.config import QueryNetworkConfig, TrainingConfig


class QueryNetwork(nn.Module):
    """Residual classifier with `blocks[i]` blocks of `widths[i]` channels at level i.

    A bottleneck block gives out four times its width, so `feature_size` is `4 * widths[-1]` then.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_channels: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        block: Literal["bottleneck", "basic"],
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(blocks) or min(*widths, *blocks) < 1:
            raise ConfigError(
                f"query network: widths {widths} and blocks {blocks} do not fit together; "
                "give as many positive numbers in one as in the other"
            )
        make_block, expansion = _BLOCKS[block]
        self.stem = nn.Sequential(*_convolution(num_channels, widths[0], 3), nn.ReLU())
        layers, in_channels = [], widths[0]
        for level, (width, num_blocks) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(num_blocks):
                stride = 2 if level > 0 and index == 0 else 1
                body = nn.Sequential(*make_block(in_channels, width, stride))
                layers.append(_Residual(body, in_channels, expansion * width, stride))
                in_channels = expansion * width
        self.body = nn.Sequential(*layers)
        self.feature_size = in_channels
        self.head = nn.Linear(in_channels, num_classes)
        self.to(memory_format=torch.channels_last)  # convolutions are a third faster

    def features(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Averages over the positions of the last level; `x` is in [-1, 1]."""
        return self.body(self.stem(x)).mean(dim=(2, 3))

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch class_"]:
        """Logits over the public classes."""
        return self.head(self.features(x))


def new_query_network(
    config: QueryNetworkConfig, num_classes: int, *, num_channels: int
) -> QueryNetwork:
    """The network of these settings, with weights from torch's own generator."""
    return QueryNetwork(
        num_classes,
        num_channels=num_channels,
        widths=config.widths,
        blocks=config.blocks,
        block=config.block,
    )


def train_query_network(
    network: nn.Module,
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    context: TrainingContext = BY_ITSELF,
) -> None:
    """Train in place by SGD and cross-entropy; the rate follows a cosine, one step an epoch.

    `seed` gives order and augmentation (initial weights are the caller's). The last, smaller batch
    of an epoch is left out; a set smaller than a batch is one batch. An interrupted training is
    continued to the same weights. Each process takes its part of each batch.
    """
    checkpoint, world = context.checkpoint, context.world
    log = RunLog(context.stats, stage="query_network")
    precision = resolved_precision(context.precision, device)
    synced(network.to(device), world).train()
    world.barrier()
    world.broadcast_(list(network.state_dict().values()))
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    generator, step = torch.Generator().manual_seed(seed), 0
    batch_size = config.batch_size
    per_epoch = max(1, len(images) // batch_size)
    num_steps = config.epochs * per_epoch
    order = torch.empty(0, dtype=torch.int64)
    if (state := world.broadcast(checkpoint.load())) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        order, step = state["order"], state["step"]

    while step < num_steps:
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            order = torch.randperm(len(images), generator=generator)
        indices = order[position * batch_size : (position + 1) * batch_size]
        rate = cosine_learning_rate(config.learning_rate, epoch, config.epochs)
        optimizer.param_groups[0]["lr"] = rate
        batch = shift_randomly(images[indices], config.augment_shift, generator=generator)
        batch = flip_randomly(batch, generator=generator) if config.horizontal_flip else batch
        mine = world.rows(len(batch))
        part, of_part = batch[mine].to(device), labels[indices[mine]].to(device)
        with autocast(device, precision):
            logits = network(to_model_range(part))
        loss = F.cross_entropy(logits.float(), of_part) * (len(part) / len(batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = loss.detach()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        world.all_reduce_([loss, *gradients])
        optimizer.step()
        step += 1
        if checkpoint.is_due():
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            progress = {"generator": generator.get_state(), "order": order, "step": step}
            checkpoint.save(state | progress)
        context.progress("query_network", step, num_steps)
        if log.is_due(step, num_steps):
            log.write(step=step, images=step * batch_size, loss=loss.item())
        if world.broadcast_flag(context.should_stop()):
            break
    network.eval()


@torch.no_grad()
def accuracy(
    network: nn.Module,
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    *,
    batch_size: int,
    device: torch.device,
) -> float:
    """Share of images whose largest logit is at their label; no augmentation."""
    network.to(device).eval()
    num_correct = 0
    for start in range(0, len(images), batch_size):
        logits = network(to_model_range(images[start : start + batch_size].to(device)))
        hits = logits.argmax(dim=1).cpu() == labels[start : start + batch_size].cpu()
        num_correct += int(hits.sum())
    return num_correct / len(images)


def cosine_learning_rate(initial: float, epoch: int, epochs: int) -> float:
    """From `initial` in epoch 0 towards 0, which epoch number `epochs` would have."""
    return initial * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def flip_randomly(
    images: UInt8[Tensor, "batch channel height width"], *, generator: torch.Generator
) -> UInt8[Tensor, "batch channel height width"]:
    """Each image mirrored left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def shift_randomly(
    images: UInt8[Tensor, "batch channel height width"],
    max_shift: int,
    *,
    generator: torch.Generator,
) -> UInt8[Tensor, "batch channel height width"]:
    """Each image moved by up to `max_shift` pixels each way, black where nothing was; 0 is off."""
    if max_shift == 0:
        return images
    batch, num_channels, height, width = images.shape
    offsets = torch.randint(0, 2 * max_shift + 1, (2, batch, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height))[:, None, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, None, :]
    padded = F.pad(images, (max_shift,) * 4)
    example = torch.arange(batch)[:, None, None, None]
    channel = torch.arange(num_channels)[None, :, None, None]
    return padded[example, channel, rows, columns]


class _Residual(nn.Module):
    """relu(shortcut(x) + body(x)); the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, body: nn.Module, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = stride == 1 and in_channels == out_channels
        projection = [] if same else _convolution(in_channels, out_channels, 1, stride)
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
    )
    return [convolution, nn.BatchNorm2d(out_channels)]


def _basic(in_channels: int, width: int, stride: int) -> list[nn.Module]:
    first = _convolution(in_channels, width, 3, stride)
    return [*first, nn.ReLU(), *_convolution(width, width, 3)]


def _bottleneck(in_channels: int, width: int, stride: int) -> list[nn.Module]:
    first = _convolution(in_channels, width, 1)
    second = _convolution(width, width, 3, stride)
    return [*first, nn.ReLU(), *second, nn.ReLU(), *_convolution(width, 4 * width, 1)]


# block name -> (layers of its body, output channels per width)
_BLOCKS = {"basic": (_basic, 1), "bottleneck": (_bottleneck, 4)}
