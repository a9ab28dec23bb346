"""Clipped per-image gradient sums and their noisy mean: DP-SGD (Abadi et al. 2016, Algorithm 1).

Private: the examples, and every gradient until `noisy_mean_gradient` has added its noise. Public
afterwards: the noisy mean. The mean over an image's K noise copies is taken inside its loss, so one
image gives one gradient (noise multiplicity, Dockhorn et al. 2023) and K changes neither the
sensitivity nor the accounting.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch import Tensor, nn

from privimage.errors import ConfigError
from privimage.hardware import PRECISIONS, Workers, autocast
from privimage.privacy import folded
from privimage.privacy.gaussian import add_gaussian, grid_step
from privimage.privacy.rng import RandomSource

SHORTENED = 1 - 2.0**-20  # the share of the clip norm that a long gradient is clipped to
ROUNDED_ON_GPU = 1e-4  # clip norms
LOOPED_AT_ONCE = 8  # images of one worker's task: fewer cost time for handing over
RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)
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
    precision: str = "float32"  # of the network; norms and sums are in float64 always
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in ("loop", "folded"):
            raise ConfigError(f"strategy is {self.strategy!r}; choose loop or folded")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; choose {' or '.join(PRECISIONS)}")
        for name in ("micro_batch_size", "num_workers"):
            _check_positive(name, getattr(self, name))


class ClippedGradientSum:
    """Called with examples, gives the sum of g * min(1, clip_norm / |g|) over them: one float64
    tensor per trained parameter, of whole multiples of `step`.

    Examples are tensors that share their first dimension (None stands for an absent argument),
    and `losses_of(model, *examples)` returns one loss per example, (batch,). Weights are those of
    `model` at the time of the call; its gradients are left alone. The result is PRIVATE: it holds
    no noise.

    Guarantee: adding or removing one example moves the result by at most clip_norm in L2 norm, to
    the last bit, whatever the loss, the weights and the engine, if examples do not meet. Each
    clipped gradient is shortened to multiples of `step` towards zero, so that it cannot grow; its
    factor leaves room for the rounding of norm and product; sums of multiples are exact, so no
    order of adding matters; a gradient that is not finite counts as zero. Precision makes no
    difference: a gradient is clipped as it came out.

    Examples do not meet if an example's gradient depends neither on which others are there nor on
    chance. No layer may mix rows (batch norm does), none may draw random numbers (dropout: leaving
    one example out shifts the masks of all others), and kernels must compute a row alike at any
    place: so every pass has one shape, the last one being filled up. The rows that the model sees
    must be those of example 0 first, then those of example 1, and so on. `check_independence` puts
    a network through this before it sees a real example.
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
        self.step = grid_step(clip_norm)
        self.device = next(model.parameters()).device
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._workers = Workers(engine.num_workers)
        # folded copies change while they compute, so every worker has its own; the loop's don't
        copies = engine.num_workers if engine.strategy == "folded" else 0
        self._models = [folded.folded_copy(model) for _ in range(copies)]
        self._models = self._models or [model] * engine.num_workers
        self._losses_of = self._in_precision(losses_of)
        self._is_warm = not engine.compiled

    def __call__(self, examples: Examples) -> dict[str, Tensor]:
        _refuse_chance(self._models)
        size = self.engine.micro_batch_size if self.engine.strategy == "folded" else LOOPED_AT_ONCE
        starts = list(range(0, _num_examples(examples), size))
        # who adds which part changes nothing: the sums are exact
        idle: SimpleQueue[tuple[nn.Module, list[Tensor]]] = SimpleQueue()
        totals = [self._zeros() for _ in self._models[: max(1, len(starts))]]
        for model, total in zip(self._models, totals, strict=False):
            idle.put((model, total))

        def add(start: int) -> None:
            model, total = idle.get()
            part = _rows(examples, slice(start, start + size))
            add_part = self._add_folded if self.engine.strategy == "folded" else self._add_looped
            add_part(total, part, model)
            idle.put((model, total))

        if not self._is_warm and starts:  # compile once, not in every worker
            add(starts.pop(0))
            self._is_warm = True
        self._workers.map(add, starts)
        total, *others = totals
        for other in others:
            torch._foreach_add_(total, other)  # pyright: ignore[reportPrivateImportUsage]
        return {n: t.double() * self.step for n, t in zip(self.parameters, total, strict=True)}

    @property
    def images_at_once(self) -> int:
        """How many examples `check_independence` needs: enough for every place of a pass."""
        return max(2, self.engine.micro_batch_size) if self.engine.strategy == "folded" else 2

    def check_independence(self, made_up: Examples) -> None:
        """ConfigError unless `images_at_once` made-up examples add up, bit for bit, to the first
        of them and the others: without the first, each of the others has another place.

        What it cannot see: a network that mixes examples for some inputs or weights only. A GPU may
        round differently from call to call: there, up to ROUNDED_ON_GPU clip norms are let pass.
        """
        together = self(made_up)
        first, others = (self(_rows(made_up, rows)) for rows in (slice(0, 1), slice(1, None)))
        off = [together[name] - first[name] - others[name] for name in together]
        moved = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for d in off]))
        allowed = ROUNDED_ON_GPU * self.clip_norm if self.device.type == "cuda" else 0.0
        if not moved <= allowed:
            raise ConfigError(
                "the gradient of one example depends on which others are there, or on chance (by "
                f"{moved / self.clip_norm:.1e} clip norms): a layer or the loss mixes examples or "
                "draws random numbers, or this machine rounds the rows of one pass differently; "
                "take such a layer out, or use performance.strategy loop"
            )

    def _add_looped(
        self, total: list[Tensor], examples: list[Tensor | None], model: nn.Module
    ) -> None:
        wanted = list(self.parameters.values())
        for row in range(_num_examples(examples)):
            loss = self._losses_of(model, *_rows(examples, slice(row, row + 1))).sum()
            gradients = torch.autograd.grad(loss, wanted, materialize_grads=True)
            norms = torch._foreach_norm(gradients, 2, torch.float64)  # pyright: ignore[reportPrivateImportUsage]
            factor = self._factor(torch.linalg.vector_norm(torch.stack(norms)))
            self._add_in_steps(total, [g[None] for g in gradients], factor[None])

    def _add_folded(
        self, total: list[Tensor], examples: list[Tensor | None], model: nn.Module
    ) -> None:
        num, size = _num_examples(examples), self.engine.micro_batch_size
        examples = [None if t is None else _padded(t, size) for t in examples]
        found = folded.per_image_gradients(self._losses_of, model, examples, num_images=size)
        gradients = list(found.values())  # image, *parameter shape
        norms = [
            torch.linalg.vector_norm(g, dim=tuple(range(1, g.dim())), dtype=torch.float64)
            for g in gradients
        ]
        factor = self._factor(torch.linalg.vector_norm(torch.stack(norms), dim=0))
        factor[num:] = 0.0  # what the pass was filled up with
        self._add_in_steps(total, gradients, factor)

    def _factor(self, norm: Tensor) -> Tensor:
        """What gradients of these norms are multiplied by, as a number of steps; 0 if not finite.

        SHORTENED leaves room for the rounding of the norm (float64), of the factor and of the
        product (both float32 at worst: 2^-23 together).
        """
        factor = (self.clip_norm * SHORTENED / norm).clamp(max=1.0) / self.step
        return torch.where(torch.isfinite(norm), factor, 0.0)

    def _add_in_steps(
        self, total: list[Tensor], gradients: Sequence[Tensor], factor: Tensor
    ) -> None:
        """Add gradient * factor, shortened towards zero to whole numbers of at most 2^29.

        Gradients: (image, *parameter shape). Tensor by tensor, so that what is made along the way
        stays in the cache; elementwise, for a matrix product could run in bf16 or TF32.
        """
        must_mask = self.device.type == "cuda" or not bool((factor > 0).all())  # 0 * NaN is NaN
        rounded = factor.to(gradients[0].dtype)
        for summed, g in zip(total, gradients, strict=True):
            by_image = rounded.view(-1, *[1] * (g.dim() - 1))
            if must_mask:
                g = torch.where(by_image > 0, g, 0)
            steps = (g * by_image).to(torch.int32)
            if len(steps) > 1:  # in the order of memory the sum is several times as fast
                order = sorted(range(1, g.dim()), key=g.stride, reverse=True)
                summed.permute([i - 1 for i in order]).add_(steps.permute(0, *order).sum(0))
            else:
                summed += steps[0]

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p, dtype=torch.int64) for p in self.parameters.values()]

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

    Guarantee: given the sensitivity that `ClippedGradientSum` promises, this is one Gaussian
    mechanism of `noise_multiplier` over a Poisson sample. The divisor must be a public constant,
    never the number of images drawn. Call it once for a logical batch, also for an empty one. The
    result may be used freely.
    """
    _check_positive("clip_norm", clip_norm)
    _check_positive("noise_multiplier", noise_multiplier)
    _check_positive("expected_batch_size", expected_batch_size)
    deviation, step = clip_norm * noise_multiplier, grid_step(clip_norm)
    return {
        name: (
            add_gaussian(source, summed, standard_deviation=deviation, step=step)
            / expected_batch_size
        ).float()
        for name, summed in clipped_sum.items()
    }


def _rows(examples: Examples, rows: slice) -> list[Tensor | None]:
    return [None if tensor is None else tensor[rows] for tensor in examples]


def _padded(tensor: Tensor, size: int) -> Tensor:
    """Repeats the first row until there are `size`: kernels are chosen, and compiled, by shape."""
    missing = size - len(tensor)
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) if missing else tensor


def _refuse_running_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name or 'the network'} is a {type(module).__name__}, which mixes images and "
                "keeps their statistics in the clear; use GroupNorm"
            )


def _refuse_chance(models: Sequence[nn.Module]) -> None:
    for name, module in (named for model in models for named in model.named_modules()):
        if isinstance(module, RANDOM_LAYERS) and module.training and getattr(module, "p", 1.0) > 0:
            raise ConfigError(
                f"{name or 'the network'} is a {type(module).__name__}: its random numbers for one "
                "image depend on which others are there; take it out, or put the network into "
                "evaluation mode for DP-SGD"
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
