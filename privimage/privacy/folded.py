"""Per-image gradients at the price of one backward pass: the engine behind `clipped_gradient_sum`.

Every layer with weights is run through an autograd function whose backward gives the gradient of
its input as usual and, instead of one weight gradient for the batch, one for each image: a
batched matrix product in which the K noise copies of an image and all positions are folded into
the reduction. Nothing is computed twice and no copy has a gradient of its own. PRIVATE: all
gradients in `PerImageGradients`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privimage.errors import ConfigError


class PerImageGradients:
    """Collects one gradient per image for every parameter, keyed by the parameter's name."""

    def __init__(self, num_images: int, device: torch.device) -> None:
        self.num_images = num_images
        self.by_name: dict[str, Tensor] = {}
        # layers whose input needs no gradient still take part in the backward pass through this
        self.token = torch.zeros((), device=device, requires_grad=True)

    def add(self, name: str, gradient: Tensor) -> None:
        """`gradient` is (image, *parameter shape); a layer that is used twice adds up."""
        gradient = gradient.float()
        known = self.by_name.get(name)
        self.by_name[name] = gradient if known is None else known + gradient

    def by_image(self, rows: Tensor) -> Tensor:
        """(image * copy, ...) -> (image, copy, ...)."""
        return rows.unflatten(0, (self.num_images, -1))


def per_image_gradients(
    losses_of: Callable[[nn.Module], Tensor], model: nn.Module, *, num_images: int
) -> dict[str, Tensor]:
    """Gradient of every image's own loss, (image, *parameter shape) for each trained parameter.

    `losses_of(model)` returns one loss per image. The model's batches must hold the copies of
    image 0 first, then those of image 1, and so on, and no layer may mix rows: both hold for
    `denoising_loss` and the U-Net, whose norms are per row. A layer type with weights that is
    not known is a ConfigError.
    """
    device = next(model.parameters()).device
    gradients = PerImageGradients(num_images, device)
    with _folded_layers(model, gradients):
        losses = losses_of(model)
        losses.sum().backward(inputs=[gradients.token])
    return {
        name: gradients.by_name[name]
        if name in gradients.by_name
        else torch.zeros(num_images, *parameter.shape, device=device)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def supports(model: nn.Module) -> bool:
    """True if every layer with weights of its own is of a known type."""
    return all(
        type(module) in _RULES
        for module in model.modules()
        if any(True for _ in module.parameters(recurse=False))
    )


@contextmanager
def _folded_layers(model: nn.Module, gradients: PerImageGradients) -> Iterator[None]:
    changed = []
    try:
        for name, module in model.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            if type(module) not in _RULES:
                raise ConfigError(
                    f"no rule for per-image gradients of {name} ({type(module).__name__}); "
                    f"use layers of {', '.join(t.__name__ for t in _RULES)}"
                )
            module.forward = _bound(
                _RULES[type(module)], module, f"{name}." * bool(name), gradients
            )
            changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward  # the class's own forward again


def _bound(
    rule: Callable, module: nn.Module, prefix: str, gradients: PerImageGradients
) -> Callable:
    return lambda x: rule(module, x, prefix, gradients)


def _convolution(m: nn.Conv2d, x: Tensor, prefix: str, gradients: PerImageGradients) -> Tensor:
    plain = m.groups == 1 and m.dilation == (1, 1) and m.padding_mode == "zeros"
    if not plain or isinstance(m.padding, str):
        raise ConfigError(
            f"convolution {prefix[:-1]}: give it zero padding, one group, no dilation"
        )
    return _Convolution.apply(x, m, prefix, gradients, gradients.token)


def _linear(m: nn.Linear, x: Tensor, prefix: str, gradients: PerImageGradients) -> Tensor:
    return _Linear.apply(x, m, prefix, gradients, gradients.token)


def _group_norm(m: nn.GroupNorm, x: Tensor, prefix: str, gradients: PerImageGradients) -> Tensor:
    normalised = F.group_norm(x, m.num_groups, eps=m.eps)
    return _Affine.apply(normalised, m, prefix, gradients, gradients.token)


def _embedding(m: nn.Embedding, x: Tensor, prefix: str, gradients: PerImageGradients) -> Tensor:
    return _Embedding.apply(x, m, prefix, gradients, gradients.token)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, m: nn.Conv2d, prefix: str, gradients: Any, token: Tensor):
        ctx.save_for_backward(x)
        ctx.layer = (m, prefix, gradients)
        return m._conv_forward(x, m.weight, m.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (x,), (m, prefix, gradients) = ctx.saved_tensors, ctx.layer
        outputs = gradients.by_image(grad.permute(0, 2, 3, 1)).flatten(1, 3)  # image, k*l, out
        inputs = gradients.by_image(_patches(x, m)).flatten(1, 3)  # image, k*l, kernel*in
        weight = outputs.transpose(1, 2) @ inputs
        weight = weight.unflatten(2, (*m.kernel_size, -1)).permute(0, 1, 4, 2, 3)
        gradients.add(prefix + "weight", weight)
        if m.bias is not None:
            gradients.add(prefix + "bias", outputs.sum(1))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        grad_x = torch.ops.aten.convolution_backward(
            grad, x, m.weight, None, m.stride, m.padding, m.dilation, False, [0, 0], 1,
            [True, False, False],
        )[0]  # fmt: skip
        return grad_x, None, None, None, None


def _patches(x: Tensor, m: nn.Conv2d) -> Tensor:
    """What the kernel sees at every position: (row, height, width, kernel * in), in one copy."""
    x = x.permute(0, 2, 3, 1)
    if m.kernel_size == (1, 1) and m.stride == (1, 1):
        return x
    vertical, horizontal = (int(p) for p in m.padding)
    x = F.pad(x, (0, 0, horizontal, horizontal, vertical, vertical))
    windows = x.unfold(1, m.kernel_size[0], m.stride[0]).unfold(2, m.kernel_size[1], m.stride[1])
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, m: nn.Linear, prefix: str, gradients: Any, token: Tensor):
        ctx.save_for_backward(x)
        ctx.layer = (m, prefix, gradients)
        return F.linear(x, m.weight, m.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (x,), (m, prefix, gradients) = ctx.saved_tensors, ctx.layer
        outputs = gradients.by_image(grad).flatten(1, -2)  # image, copy * position, out
        inputs = gradients.by_image(x).flatten(1, -2)
        gradients.add(prefix + "weight", outputs.transpose(1, 2) @ inputs)
        if m.bias is not None:
            gradients.add(prefix + "bias", outputs.sum(1))
        return grad @ m.weight if ctx.needs_input_grad[0] else None, None, None, None, None


class _Affine(torch.autograd.Function):
    """Scale and shift of a group norm; the normalisation itself has no weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, m: nn.GroupNorm, prefix: str, gradients: Any, token: Tensor):
        ctx.save_for_backward(x)
        ctx.layer = (m, prefix, gradients)
        shape = (-1, *[1] * (x.dim() - 2))
        return x * m.weight.view(shape) + m.bias.view(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (x,), (m, prefix, gradients) = ctx.saved_tensors, ctx.layer
        scale, shift = (grad * x).flatten(2).sum(2), grad.flatten(2).sum(2)  # row, channel
        gradients.add(prefix + "weight", gradients.by_image(scale).sum(1))
        gradients.add(prefix + "bias", gradients.by_image(shift).sum(1))
        return grad * m.weight.view(-1, *[1] * (x.dim() - 2)), None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, m: nn.Embedding, prefix: str, gradients: Any, token: Tensor):
        ctx.save_for_backward(x)
        ctx.layer = (m, prefix, gradients)
        return F.embedding(x, m.weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (x,), (m, prefix, gradients) = ctx.saved_tensors, ctx.layer
        hits = F.one_hot(gradients.by_image(x).flatten(1), m.num_embeddings).to(grad.dtype)
        outputs = gradients.by_image(grad).flatten(1, -2)  # image, copy * position, dim
        gradients.add(prefix + "weight", hits.transpose(1, 2) @ outputs)
        return None, None, None, None, None


_RULES: dict[type, Callable[..., Tensor]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}
