"""How per-image gradients are computed: one image after the other, or many in one pass.

What an engine gives is clipped by `privimage.privacy.clipping`, whatever it is: no choice here
changes the guarantee. PRIVATE: all gradients here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privimage.errors import ConfigError
from privimage.gradients import folded
from privimage.machine.hardware import PRECISIONS, autocast
from privimage.privacy.clipping import PerImageGradients, check_positive

LOOPED_AT_ONCE = 8  # images of one worker's task: fewer cost time for handing over
Losses = Callable[..., Tensor]  # of (model, *examples), one per example


@dataclass(frozen=True)
class Engine:
    """No choice here changes the result beyond rounding.

    loop: one image after the other, its K copies being an ordinary batch; any network; a quarter
    of the memory. folded: `micro_batch_size` images in one pass, by rules for known layers
    (`privimage.gradients.folded`); for small images and GPUs, where calls cost more than
    arithmetic. Images are spread over `num_workers` threads of one compute thread each.
    """

    strategy: str = "loop"
    micro_batch_size: int = 16
    num_workers: int = 1
    precision: str = "float32"  # of the network; norms and sums are in float64 always
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in ("loop", "folded"):
            raise ConfigError(f"strategy is {self.strategy!r}; choose loop or folded")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; choose {' or '.join(PRECISIONS)}")
        for name in ("micro_batch_size", "num_workers"):
            check_positive(name, getattr(self, name))

    @property
    def pass_size(self) -> int:
        return self.micro_batch_size if self.strategy == "folded" else 1

    @property
    def task_size(self) -> int:
        return self.micro_batch_size if self.strategy == "folded" else LOOPED_AT_ONCE

    def gradients_of(self, losses_of: Losses, model: nn.Module) -> Sequence[PerImageGradients]:
        """One for each worker; ConfigError for a layer that the folded strategy has no rule for."""
        per_row = self._in_precision(losses_of, next(model.parameters()).device)
        if self.strategy == "loop":
            return [LoopedGradients(per_row, model) for _ in range(self.num_workers)]
        # folded copies change while they compute, so every worker has its own
        copies = [folded.folded_copy(model) for _ in range(self.num_workers)]
        return [FoldedGradients(per_row, copied, self.pass_size) for copied in copies]

    def _in_precision(self, losses_of: Losses, device: torch.device) -> Losses:
        def losses(model: Callable[..., Tensor], *examples: Tensor | None) -> Tensor:
            with autocast(device, self.precision):
                return losses_of(model, *examples)

        return torch.compile(losses, dynamic=False) if self.compiled else losses


@dataclass(frozen=True)
class LoopedGradients:
    """A forward and a backward pass for each image."""

    losses_of: Losses
    model: nn.Module

    def __call__(self, examples: list[Tensor | None]) -> Iterator[Sequence[Tensor]]:
        wanted = [p for p in self.model.parameters() if p.requires_grad]
        num = next(len(tensor) for tensor in examples if tensor is not None)
        for row in range(num):
            one = [None if tensor is None else tensor[row : row + 1] for tensor in examples]
            loss = self.losses_of(self.model, *one).sum()
            gradients = torch.autograd.grad(loss, wanted, materialize_grads=True)
            yield [g[None] for g in gradients]


@dataclass(frozen=True)
class FoldedGradients:
    """One forward and one backward pass of `pass_size` images, the last one being filled up."""

    losses_of: Losses
    model: nn.Module  # a folded copy
    pass_size: int

    def __call__(self, examples: list[Tensor | None]) -> Iterator[Sequence[Tensor]]:
        full = [None if tensor is None else _padded(tensor, self.pass_size) for tensor in examples]
        found = folded.per_image_gradients(
            self.losses_of, self.model, full, num_images=self.pass_size
        )
        yield list(found.values())


def _padded(tensor: Tensor, size: int) -> Tensor:
    """Repeats the first row until there are `size`: kernels are chosen, and compiled, by shape."""
    missing = size - len(tensor)
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) if missing else tensor
