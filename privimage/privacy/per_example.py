"""Clipped per-image gradient sums and their noisy mean: DP-SGD (Abadi et al. 2016, Algorithm 1).

Private: the examples, and every gradient until `noisy_mean_gradient` has added its noise. Public
afterwards: the noisy mean. The mean over an image's K noise copies is taken inside its loss, so one
image gives one gradient (noise multiplicity, Dockhorn et al. 2023) and K changes neither the
sensitivity nor the accounting. The engine is `privimage.privacy.folded` where it knows every layer,
else `vmap` over one image at a time, which is slower and takes any network.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from privimage.errors import ConfigError
from privimage.privacy import folded
from privimage.privacy.rng import RandomSource, add_gaussian

NORM_OFFSET = 1e-6  # added to a norm before dividing by it; it only makes the clipping stronger


def clipped_gradient_sum(
    losses_of: Callable[..., Tensor],
    model: nn.Module,
    examples: tuple[Tensor | None, ...],
    *,
    clip_norm: float,
    micro_batch_size: int,
) -> dict[str, Tensor]:
    """Sum over examples of g * min(1, clip_norm / (|g| + 1e-6)), one float32 tensor per trained
    parameter.

    `examples` are tensors that share their first dimension (None stands for an absent argument),
    and `losses_of(model, *examples)` returns one loss per example, (batch,). Examples must not
    meet: neither in the loss nor in a layer, and the rows that the model sees must be those of
    example 0 first, then those of example 1, and so on.

    Guarantee: adding or removing one example moves the result by at most clip_norm in L2 norm (up
    to float32 rounding) whatever the loss, the weights and the micro-batch size, for one example's
    gradient does not depend on any other and a gradient that is not finite counts as zero. The
    result is PRIVATE: it holds no noise.
    """
    _check_positive("clip_norm", clip_norm)
    _check_positive("micro_batch_size", micro_batch_size)
    total = {
        name: torch.zeros_like(p, dtype=torch.float32)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    per_image = _folded_gradients if folded.supports(model) else _vmapped_gradients
    for start in range(0, _num_examples(examples), micro_batch_size):
        part = [None if t is None else t[start : start + micro_batch_size] for t in examples]
        clipped = _clip_and_sum(per_image(losses_of, model, part), clip_norm=clip_norm)
        for name, summed in clipped.items():
            total[name] += summed
    return total


def noisy_mean_gradient(
    clipped_sum: dict[str, Tensor],
    *,
    source: RandomSource,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
) -> dict[str, Tensor]:
    """(clipped_sum + N(0, (clip_norm * noise_multiplier)^2)) / expected_batch_size, in float32.

    Given the sensitivity that `clipped_gradient_sum` promises, this is one Gaussian mechanism of
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


def _folded_gradients(
    losses_of: Callable[..., Tensor], model: nn.Module, examples: list[Tensor | None]
) -> dict[str, Tensor]:
    num_images = next(len(t) for t in examples if t is not None)
    return folded.per_image_gradients(
        lambda folded_model: losses_of(folded_model, *examples), model, num_images=num_images
    )


def _vmapped_gradients(
    losses_of: Callable[..., Tensor], model: nn.Module, examples: list[Tensor | None]
) -> dict[str, Tensor]:
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(weights: dict[str, Tensor], *example: Any) -> Tensor:
        def traced_model(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, weights, args, kwargs)

        batch_of_one = (None if tensor is None else tensor[None] for tensor in example)
        return losses_of(traced_model, *batch_of_one).sum()

    axes = tuple(None if tensor is None else 0 for tensor in examples)
    gradients_of = vmap(grad(loss), in_dims=(None, *axes), randomness="different")
    return gradients_of(weights, *examples)


def _clip_and_sum(gradients: dict[str, Tensor], *, clip_norm: float) -> dict[str, Tensor]:
    """Uses up `gradients`: they are scaled in place."""

    def norm_by_image(gradient: Tensor) -> Tensor:
        return torch.linalg.vector_norm(gradient.float(), dim=tuple(range(1, gradient.dim())))

    norm = torch.linalg.vector_norm(
        torch.stack([norm_by_image(g) for g in gradients.values()]), dim=0
    )
    factor = (clip_norm / (norm + NORM_OFFSET)).clamp(max=1.0)
    unusable = ~torch.isfinite(norm)
    if unusable.any():
        for gradient in gradients.values():
            gradient[unusable] = 0.0

    def weighted_sum(gradient: Tensor) -> Tensor:
        # elementwise, not a matrix product: that could run in bf16 or TF32 and exceed the clip norm
        return gradient.float().mul_(factor.view(-1, *[1] * (gradient.dim() - 1))).sum(0)

    factor = torch.where(unusable, 0.0, factor)
    return {name: weighted_sum(gradient) for name, gradient in gradients.items()}


def _num_examples(examples: tuple[Tensor | None, ...]) -> int:
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
