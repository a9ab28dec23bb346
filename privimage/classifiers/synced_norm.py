"""Batch normalisation over the images of all processes, so that their number changes nothing.

For classifiers of public or synthetic images only: it mixes the images of a batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from privimage.machine.processes import World


class SyncedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics in training are those of the whole batch."""

    world: World

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.world.size == 1:
            return super().forward(input)
        # one transfer each way; in float64, for the variance is a difference of sums
        num_values = input.shape[0] * input.shape[2] * input.shape[3]
        own = [
            input.sum((0, 2, 3), dtype=torch.float64),
            input.square().sum((0, 2, 3), dtype=torch.float64),
            torch.tensor([num_values], dtype=torch.float64, device=input.device),
        ]
        total, of_squares, num = _Sum.apply(torch.cat(own), self.world).split(
            [self.num_features, self.num_features, 1]
        )
        mean = total / num
        variance = (of_squares / num - mean.square()).clamp(min=0)
        self._remember(mean.detach(), variance.detach() * num / (num - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps).to(input.dtype)
        shift = self.bias - mean.to(input.dtype) * scale
        return input * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, for each has a part of the loss."""

    @staticmethod
    def forward(context: Any, values: Tensor, world: World) -> Tensor:
        context.world = world
        total = values.clone()
        world.all_reduce_([total])
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        context.world.all_reduce_([total])
        return total, None


def synced(network: nn.Module, world: World) -> nn.Module:
    """`network` with its batch norms over all processes, in place; the state stays the same."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and world.size > 1:
            module.__class__ = SyncedBatchNorm
            object.__setattr__(module, "world", world)  # no part of the network
    return network
