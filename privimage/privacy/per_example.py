"""Clipped per-image gradient sums and their noisy mean: DP-SGD (Abadi et al. 2016, Algorithm 1).

Private: the examples, and every gradient until `noisy_mean_gradient` has added its noise. Public
afterwards: the noisy mean. The mean over an image's K noise copies is taken inside its loss, so one
image gives one gradient (noise multiplicity, Dockhorn et al. 2023) and K changes neither the
sensitivity nor the accounting.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privimage.errors import ConfigError
from privimage.hardware import PRECISIONS, Workers, autocast
from privimage.privacy import folded
from privimage.privacy.rng import RandomSource, add_gaussian

NORM_OFFSET = 1e-6  # added to a norm before dividing by it; it only makes the clipping stronger
Examples = Sequence[Tensor | None]


@dataclass(frozen=True)
class Engine:
    """How per-image gradients are computed. No choice here changes the guarantee, or the result
    beyond rounding.

    loop: one image after the other, its K copies being an ordinary batch; any network; a quarter
    of the memory. folded: `micro_batch_size` images in one pass, by rules for known layers
    (`privimage.privacy.folded`); for small images and GPUs, where calls cost more than arithmetic.
    Images are spread over `num_workers` threads of one compute thread each.
    """

    strategy: str = "loop"
    micro_batch_size: int = 16
    num_workers: int = 1
    precision: str = "float32"  # of the network; clipping and sums are in float32 always
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in ("loop", "folded"):
            raise ConfigError(f"strategy is {self.strategy!r}; choose loop or folded")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; choose {' or '.join(PRECISIONS)}")
        for name in ("micro_batch_size", "num_workers"):
            _check_positive(name, getattr(self, name))


class ClippedGradientSum:
    """Called with examples, gives the sum of g * min(1, clip_norm / (|g| + 1e-6)) over them: one
    tensor per trained parameter, in float32 (float64 for a float64 network).

    Examples are tensors that share their first dimension (None stands for an absent argument),
    and `losses_of(model, *examples)` returns one loss per example, (batch,). Examples must not
    meet: neither in the loss nor in a layer, and the rows that the model sees must be those of
    example 0 first, then those of example 1, and so on. Weights are those of `model` at the time
    of the call; its gradients are left alone.

    Guarantee: adding or removing one example moves the result by at most clip_norm in L2 norm (up
    to float32 rounding) whatever the loss, the weights and the engine, for one example's gradient
    does not depend on any other and a gradient that is not finite counts as zero. Precision makes
    no difference to it: a gradient is clipped as it came out. The result is PRIVATE: it holds no
    noise.
    """

    def __init__(
        self,
        losses_of: Callable[..., Tensor],
        model: nn.Module,
        *,
        clip_norm: float,
        engine: Engine,
    ) -> None:
        _check_positive("clip_norm", clip_norm)
        _refuse_running_statistics(model)
        self.clip_norm, self.engine = clip_norm, engine
        self.device = next(model.parameters()).device
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._workers = Workers(engine.num_workers)
        # folded copies change while they compute, so every worker has its own; the loop's don't
        copies = engine.num_workers if engine.strategy == "folded" else 0
        self._models = [folded.folded_copy(model) for _ in range(copies)] or [model]
        self._losses_of = self._in_precision(losses_of)
        self._is_warm = not engine.compiled

    def __call__(self, examples: Examples) -> dict[str, Tensor]:
        num = _num_examples(examples)
        if not self._is_warm and num:  # compile once, not in every worker
            self._is_warm = True
            self._workers.map(self._sum, [(0, _rows(examples, slice(0, 1)))])
        shares = enumerate(self._workers.shares(num))
        pieces = [(worker, _rows(examples, share)) for worker, share in shares]
        total, *others = self._workers.map(self._sum, pieces) or [self._zeros()]
        for other in others:
            torch._foreach_add_(total, other)  # pyright: ignore[reportPrivateImportUsage]
        return dict(zip(self.parameters, total, strict=True))

    def _sum(self, piece: tuple[int, list[Tensor | None]]) -> list[Tensor]:
        """One worker's share, in micro-batches."""
        worker, examples = piece
        total = self._zeros()
        size = self.engine.micro_batch_size if self.engine.strategy == "folded" else 1
        for start in range(0, _num_examples(examples), size):
            part = _rows(examples, slice(start, start + size))
            if self.engine.strategy == "folded":
                self._add_folded(total, part, self._models[worker])
            else:
                self._add_single(total, part)
        return total

    def _add_single(self, total: list[Tensor], example: list[Tensor | None]) -> None:
        loss = self._losses_of(self._models[0], *example).sum()
        wanted = list(self.parameters.values())
        gradient = torch.autograd.grad(loss, wanted, materialize_grads=True)
        norms = torch._foreach_norm(gradient)  # pyright: ignore[reportPrivateImportUsage]
        factor = _clip_factor(torch.linalg.vector_norm(torch.stack(norms)), self.clip_norm)
        if self.device.type == "cpu":
            if (known := factor.item()) > 0:
                for summed, g in zip(total, gradient, strict=True):
                    summed.add_(g, alpha=known)
            return
        for summed, g in zip(total, gradient, strict=True):  # without waiting for the device
            summed.addcmul_(torch.where(factor > 0, g, 0), factor)

    def _add_folded(
        self, total: list[Tensor], examples: list[Tensor | None], model: nn.Module
    ) -> None:
        num = _num_examples(examples)
        size = self.engine.micro_batch_size if self.engine.compiled else num
        examples = [None if t is None else _padded(t, size) for t in examples]
        by_image = folded.per_image_gradients(self._losses_of, model, examples, num_images=size)
        gradients = list(by_image.values())
        norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        factor = _clip_factor(torch.linalg.vector_norm(torch.stack(norms), dim=0), self.clip_norm)
        factor[num:] = 0.0  # padding
        unusable = factor == 0
        must_mask = self.device.type == "cuda" or bool(unusable.any())
        for summed, g in zip(total, gradients, strict=True):
            shape = (-1, *[1] * (g.dim() - 1))
            if must_mask:
                g = torch.where(unusable.view(shape), 0, g)
            # elementwise, not a matrix product: that could run in bf16 or TF32 and exceed the norm
            summed.add_((g * factor.view(shape)).sum(0))

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self.parameters.values()]

    def _in_precision(self, losses_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
        device, precision = self.device, self.engine.precision

        def losses(model: Callable[..., Tensor], *examples: Tensor | None) -> Tensor:
            with autocast(device, precision):
                return losses_of(model, *examples)

        return torch.compile(losses, dynamic=False) if self.engine.compiled else losses


def noisy_mean_gradient(
    clipped_sum: dict[str, Tensor],
    *,
    source: RandomSource,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
) -> dict[str, Tensor]:
    """(clipped_sum + N(0, (clip_norm * noise_multiplier)^2)) / expected_batch_size, in float32.

    Given the sensitivity that `ClippedGradientSum` promises, this is one Gaussian mechanism of
    `noise_multiplier` over a Poisson sample. The divisor must be a public constant, never the
    number of images drawn. Call it once for a logical batch, also for an empty one. The result may
    be used freely.
    """
    _check_positive("clip_norm", clip_norm)
    _check_positive("noise_multiplier", noise_multiplier)
    _check_positive("expected_batch_size", expected_batch_size)
    deviation = clip_norm * noise_multiplier
    return {
        name: (
            add_gaussian(source, summed, standard_deviation=deviation) / expected_batch_size
        ).float()
        for name, summed in clipped_sum.items()
    }


def _clip_factor(norm: Tensor, clip_norm: float) -> Tensor:
    """What a gradient of this norm is multiplied by: 0 if it is not finite."""
    factor = (clip_norm / (norm + NORM_OFFSET)).clamp(max=1.0)
    return torch.where(torch.isfinite(norm), factor, 0.0)


def _rows(examples: Examples, rows: slice) -> list[Tensor | None]:
    return [None if tensor is None else tensor[rows] for tensor in examples]


def _padded(tensor: Tensor, size: int) -> Tensor:
    """Repeats the first row until there are `size`, so that compiled code sees one shape."""
    missing = size - len(tensor)
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) if missing else tensor


def _refuse_running_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name or 'the network'} is a {type(module).__name__}, which mixes images and "
                "keeps their statistics in the clear; use GroupNorm"
            )


def _num_examples(examples: Examples) -> int:
    sizes = {len(tensor) for tensor in examples if tensor is not None}
    if len(sizes) != 1:
        raise ConfigError(
            f"examples have first dimensions {sorted(sizes)}; "
            "give at least one tensor, and the same first dimension to all"
        )
    return sizes.pop()


def _check_positive(name: str, value: float | int) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} is {value}; give a finite number above 0")
