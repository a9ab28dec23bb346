"""The gradient of an ordinary, non-private step: the mean loss of a batch, its images spread over
workers.

For public images only: nothing here is clipped.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from privimage.machine.hardware import Compute, Workers, autocast
from privimage.machine.processes import ALONE, World


class MeanGradient:
    """Called with examples, sets `.grad` of the parameters of `model` to the gradient of the mean
    loss and returns that loss, a scalar.

    `losses_of(model, *examples)` returns one loss per example; examples are tensors that share
    their first dimension, or None. Every process passes the whole batch and takes its part of it;
    the result depends on the numbers of processes and workers by rounding only.
    """

    def __init__(
        self,
        losses_of: Callable[..., Tensor],
        model: nn.Module,
        *,
        compute: Compute,
        world: World = ALONE,
    ) -> None:
        self.model, self.compute, self.world = model, compute, world
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self._workers = Workers(compute.num_workers)
        self._losses_of = torch.compile(losses_of) if compute.compiled else losses_of

    def __call__(self, examples: Sequence[Tensor | None]) -> Tensor:
        num = next(len(t) for t in examples if t is not None)
        mine = self.world.rows(num)
        examples = [None if t is None else t[mine] for t in examples]

        def share_of(share: slice) -> tuple[Tensor, ...]:
            part = [None if t is None else t[share] for t in examples]
            with autocast(self.device, self.compute.precision):
                loss = self._losses_of(self.model, *part).sum() / num
            return loss.detach(), *torch.autograd.grad(loss, self.parameters)

        shares = self._workers.shares(mine.stop - mine.start)
        total, *others = self._workers.map(share_of, shares) or [self._zeros()]
        for other in others:
            total = torch._foreach_add(total, other)  # pyright: ignore[reportPrivateImportUsage]
        self.world.all_reduce_(total)
        loss, *gradient = total
        for parameter, g in zip(self.parameters, gradient, strict=True):
            parameter.grad = g
        return loss

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros((), device=self.device), *map(torch.zeros_like, self.parameters)]
