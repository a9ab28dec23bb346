"""Sums of clipped per-image gradients: what one image can change in a step of DP-SGD.

Private: the examples, every gradient and the sums; `privimage.privacy.dp_sgd` adds the noise. How
gradients are computed is no concern of this file: it clips whatever an engine gives it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from privimage.errors import ConfigError
from privimage.machine.hardware import Workers
from privimage.privacy.noise import grid_step

SHORTENED = 1 - 2.0**-20  # the share of the clip norm that a long gradient is clipped to
ROUNDED_ON_GPU = 1e-4  # clip norms
RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)
Examples = Sequence[Tensor | None]


@runtime_checkable
class PerImageGradients(Protocol):
    """Called with examples, gives their gradients, in order and in parts: one tensor per trained
    parameter, (image, *parameter shape). Images beyond the examples are not looked at.
    """

    @property
    def model(self) -> nn.Module: ...

    def __call__(self, examples: list[Tensor | None]) -> Iterator[Sequence[Tensor]]: ...


@runtime_checkable
class Engine(Protocol):
    """How per-image gradients are computed: `privimage.gradients.engine` has them."""

    @property
    def num_workers(self) -> int: ...

    @property
    def task_size(self) -> int:
        """Examples that a worker is given at once."""
        ...

    @property
    def pass_size(self) -> int:
        """Examples of one forward and backward pass."""
        ...

    @property
    def compiled(self) -> bool: ...

    def gradients_of(
        self, losses_of: Callable[..., Tensor], model: nn.Module
    ) -> Sequence[PerImageGradients]:
        """One for each worker, to be used by one thread at a time."""
        ...


class ClippedGradientSum:
    """Called with examples, gives the sum of g * min(1, clip_norm / |g|) over them: one float64
    tensor per trained parameter, of whole multiples of `step`.

    Examples are tensors that share their first dimension (None stands for an absent argument),
    and `losses_of(model, *examples)` returns one loss per example, (batch,). Weights are those of
    `model` at the time of the call; its gradients are left alone. The result is PRIVATE: it holds
    no noise.

    Guarantee:
        Adding or removing one example moves the result by at most clip_norm in L2 norm, to the last
        bit, whatever the loss, the weights and the engine, if the examples are independent. Each
        clipped gradient is shortened to multiples of `step` towards zero, so that it cannot grow;
        its factor leaves room for the rounding of norm and product; sums of multiples are exact, so
        no order of adding matters; a gradient that is not finite counts as zero. Precision makes no
        difference: a gradient is clipped as it came out.

        Examples are independent if the gradient of each depends neither on which others are there
        nor on chance. No layer may mix rows (batch norm does), none may draw random numbers
        (dropout: leaving one example out shifts the masks of all others), and kernels must compute
        a row alike at any place: so an engine's passes have one shape, the last one being filled
        up. The rows that the model sees must be those of example 0 first, then those of example 1,
        and so on. `check_independence` puts a network through this before it sees a real example.
    """

    def __init__(
        self,
        losses_of: Callable[..., Tensor],
        model: nn.Module,
        *,
        clip_norm: float,
        engine: Engine,
    ) -> None:
        check_positive("clip_norm", clip_norm)
        _refuse_running_statistics(model)
        self.clip_norm, self.engine = clip_norm, engine
        self.step = grid_step(clip_norm)
        self.device = next(model.parameters()).device
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._workers = Workers(engine.num_workers)
        self._gradients_of = engine.gradients_of(losses_of, model)
        self._is_warm = not engine.compiled

    def __call__(self, examples: Examples) -> dict[str, Tensor]:
        _refuse_chance([gradients_of.model for gradients_of in self._gradients_of])
        size = self.engine.task_size
        starts = list(range(0, _num_examples(examples), size))
        # who adds which part changes nothing: the sums are exact
        idle: SimpleQueue[tuple[PerImageGradients, list[Tensor]]] = SimpleQueue()
        totals = [self._zeros() for _ in self._gradients_of[: max(1, len(starts))]]
        for gradients_of, total in zip(self._gradients_of, totals, strict=False):
            idle.put((gradients_of, total))

        def add(start: int) -> None:
            gradients_of, total = idle.get()
            part = _rows(examples, slice(start, start + size))
            missing = _num_examples(part)
            for gradients in gradients_of(part):
                # norms of the whole pass, also of what it was filled up with: the order of their
                # sums may depend on the shape, and a factor must not on how many examples are left
                factor = self._factor(_norms(gradients))[:missing]
                missing -= len(factor)
                self._add_in_steps(total, [g[: len(factor)] for g in gradients], factor)
            assert missing == 0, "one gradient for each example"
            idle.put((gradients_of, total))

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
        return max(2, self.engine.pass_size)

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


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of each image's whole gradient, (image,), in float64."""
    if len(gradients[0]) == 1:  # one call for all tensors
        norms = torch._foreach_norm([*gradients], 2, torch.float64)  # pyright: ignore[reportPrivateImportUsage]
        return torch.linalg.vector_norm(torch.stack(norms))[None]
    norms = [
        torch.linalg.vector_norm(g, dim=tuple(range(1, g.dim())), dtype=torch.float64)
        for g in gradients
    ]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def _rows(examples: Examples, rows: slice) -> list[Tensor | None]:
    return [None if tensor is None else tensor[rows] for tensor in examples]


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


def check_positive(name: str, value: float | int) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} is {value}; give a finite number above 0")
