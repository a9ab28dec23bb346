"""The folded strategy: one gradient per image from one forward and one backward pass.

A folded copy of a network expects every parameter with a leading image dimension. Its layers
compute with the shared values and give, instead of one weight gradient for the batch, one for each
image: the K noise copies of an image and all positions are folded into the reduction, so no copy
has a gradient of its own and nothing is computed twice. PRIVATE: all gradients here.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from privimage.errors import ConfigError

# from this many multiplications for one image and layer on, a CPU's own convolution kernel,
# called image by image, beats one batched matrix product over patches
_LARGE_CONVOLUTION = 4_000_000


def supports(model: nn.Module) -> bool:
    """True if every layer with weights of its own is of a known type."""
    return all(type(module) in _FOLDED for module in _layers(model))


def folded_copy(model: nn.Module) -> nn.Module:
    """A copy that shares the parameters of `model`, for `per_image_gradients`; ConfigError for a
    layer type with weights that is not known.
    """
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    copied = copy.deepcopy(model, shared)
    for module in _layers(copied):
        if type(module) not in _FOLDED:
            raise ConfigError(
                f"no rule for per-image gradients of a {type(module).__name__}; "
                f"use layers of {', '.join(t.__name__ for t in _FOLDED)}, or strategy loop"
            )
        if isinstance(module, nn.Conv2d):
            _check_plain(module)
        module.__class__ = _FOLDED[type(module)]
    return copied


def per_image_gradients(
    losses_of: Callable[..., Tensor],
    folded: nn.Module,
    examples: Sequence[Tensor | None],
    *,
    num_images: int,
) -> dict[str, Tensor]:
    """Gradient of every image's own loss, (image, *parameter shape) for each trained parameter.

    `losses_of(model, *examples)` returns one loss per image. The model's batches must hold the
    copies of image 0 first, then those of image 1, and so on, and no layer may mix rows: both hold
    for `denoising_loss` and the U-Net, whose norms are per row. A layer that is used twice adds up.
    """
    # a view of the same values for every image, which costs no memory; autograd takes it for as
    # many weights and asks each layer for a gradient of each
    weights = {
        name: p.detach().expand(num_images, *p.shape).requires_grad_(p.requires_grad)
        for name, p in folded.named_parameters()
    }
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}

    def model(*args: Any, **kwargs: Any) -> Any:
        return functional_call(folded, weights, args, kwargs)

    total = losses_of(model, *examples).sum()
    gradients = torch.autograd.grad(total, list(trained.values()), materialize_grads=True)
    return dict(zip(trained, gradients, strict=True))


def _layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]


def _check_plain(m: nn.Conv2d) -> None:
    plain = m.groups == 1 and m.dilation == (1, 1) and m.padding_mode == "zeros"
    if not plain or isinstance(m.padding, str):
        raise ConfigError(
            "per-image gradients of a convolution: give it zero padding in numbers, one group and "
            "no dilation, or use strategy loop"
        )


def _by_image(rows: Tensor, num_images: int) -> Tensor:
    """(image * copy, ..., channel) -> (image, copy * ..., channel)."""
    return rows.unflatten(0, (num_images, -1)).flatten(1, -2)


def _compute_type(x: Tensor) -> Tensor:
    """`x` in the type that autocast would give a convolution or a linear layer here."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _FoldedConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return _Convolution.apply(
            _compute_type(input), self.weight, self.bias, self.stride, self.padding
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        ctx.has_bias = bias is not None
        shared_bias = None if bias is None else bias[0].to(x.dtype)
        return F.conv2d(x, weight[0].to(x.dtype), shared_bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (x, weight), (stride, padding) = ctx.saved_tensors, ctx.geometry
        num_images, shared = len(weight), weight[0].to(x.dtype)  # out, in, *kernel
        library_gradient = torch.ops.aten.convolution_backward
        arguments = (shared, None, stride, padding, (1, 1), False, [0, 0], 1)
        multiplications = grad[:, 0].numel() // num_images * shared.numel()
        if x.device.type == "cpu" and multiplications >= _LARGE_CONVOLUTION:
            # the library sums over a batch, which here holds the copies of one image
            pairs = zip(x.chunk(num_images), grad.chunk(num_images), strict=True)
            by_image = torch.stack(
                [library_gradient(g, x, *arguments, [False, True, False])[1] for x, g in pairs]
            )
        else:
            # a convolution is a linear layer over patches; one product sums over copies and places
            outputs = _by_image(grad.permute(0, 2, 3, 1), num_images)  # image, place, out
            patches = _patches(x, shared.shape[2:], stride, padding)
            inputs = _by_image(patches, num_images)  # image, place, kernel * in
            by_image = outputs.transpose(1, 2) @ inputs  # image, out, kernel * in
            by_image = by_image.unflatten(2, (*shared.shape[2:], -1))  # image, out, *kernel, in
            by_image = by_image.permute(0, 1, 4, 2, 3)  # image, out, in, *kernel
        bias_by_image = None
        if ctx.has_bias:
            places = grad.flatten(2).transpose(1, 2)  # row, place, out
            bias_by_image = _by_image(places, num_images).sum(1)  # image, out
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = library_gradient(grad, x, *arguments, [True, False, False])[0]
        return grad_x, by_image, bias_by_image, None, None


def _patches(x: Tensor, kernel: Sequence[int], stride: Any, padding: Any) -> Tensor:
    """What the kernel sees at every position: (row, height, width, kernel * in), in one copy."""
    x = x.permute(0, 2, 3, 1)  # row, height, width, in
    if tuple(kernel) == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0):
        return x  # a pixel is its own patch
    x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    # views only: row, height, width, in, *kernel
    windows = x.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])
    # `in` goes last, as it lies in memory: the copy that flatten makes then reads whole pixels
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


class _FoldedLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(_compute_type(input), self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        shared_bias = None if bias is None else bias[0].to(x.dtype)
        return F.linear(x, weight[0].to(x.dtype), shared_bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, weight = ctx.saved_tensors
        outputs = _by_image(grad, len(weight))  # image, copy * ..., out
        inputs = _by_image(x, len(weight))  # image, copy * ..., in
        by_image = outputs.transpose(1, 2) @ inputs  # image, out, in
        bias_by_image = outputs.sum(1) if ctx.has_bias else None
        grad_x = grad @ weight[0].to(x.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, by_image, bias_by_image


class _FoldedGroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        # as autocast has it: in float32 on a GPU, in the input's own type on a CPU
        if input.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            input = input.float()
        return _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float):
        rows, channels, positions = len(x), x.shape[1], x[0, 0].numel()
        sizes = (rows, channels, positions, num_groups)
        y, mean, inverse_deviation = torch.native_group_norm(
            x.contiguous(), weight[0].contiguous(), bias[0].contiguous(), *sizes, eps
        )
        ctx.save_for_backward(x, weight, mean, inverse_deviation)  # the last two: row, group
        ctx.sizes = sizes
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, weight, mean, inverse_deviation = ctx.saved_tensors
        grad_x, _, _ = torch.ops.aten.native_group_norm_backward(
            grad.contiguous(), x.contiguous(), mean, inverse_deviation, weight[0].contiguous(),
            *ctx.sizes, [True, False, False],
        )  # fmt: skip
        # the weight's gradient sums grad * (x - mean) * inverse_deviation over places; mean and
        # deviation are constant within a group, so the sums of grad * x and of grad are enough,
        # and x is not normalised again
        by_group = (len(x), ctx.sizes[3], -1)  # row, group, channel of the group
        products = (grad * x).flatten(2).sum(2, dtype=weight.dtype)  # row, channel
        shift = grad.flatten(2).sum(2, dtype=weight.dtype)  # row, channel: the bias's
        centred = products.view(by_group) - shift.view(by_group) * mean.unsqueeze(2)
        scale = (centred * inverse_deviation.unsqueeze(2)).view_as(shift)  # row, channel
        # an image's rows are its copies: image, channel
        by_image = [t.unflatten(0, (len(weight), -1)).sum(1) for t in (scale, shift)]
        return grad_x, *by_image, None, None


class _FoldedEmbedding(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return _Embedding.apply(input, self.weight)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor):
        ctx.save_for_backward(x, weight)
        return F.embedding(x, weight[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, weight = ctx.saved_tensors
        labels = x.unflatten(0, (len(weight), -1)).flatten(1)  # image, copy
        hits = F.one_hot(labels, weight.shape[1])  # image, copy, row of the table
        outputs = _by_image(grad, len(weight))  # image, copy, channel
        # a copy's gradient goes to the row that it looked up, and to no other
        return None, hits.to(grad.dtype).transpose(1, 2) @ outputs


_FOLDED: dict[type, type] = {
    nn.Conv2d: _FoldedConv2d,
    nn.Linear: _FoldedLinear,
    nn.GroupNorm: _FoldedGroupNorm,
    nn.Embedding: _FoldedEmbedding,
}
