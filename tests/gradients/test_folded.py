"""Both strategies against a plain autograd loop in float64, for every layer kind and the U-Net."""

import itertools
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss, sample_noise_levels
from privimage.diffusion.unet import UNet
from privimage.errors import ConfigError
from privimage.gradients.engine import Engine
from privimage.gradients.folded import folded_copy, per_image_gradients
from privimage.privacy.clipping import SHORTENED, ClippedGradientSum
from privimage.privacy.noise import grid_step
from tests.networks import small_unet

SHAPES = [(images, copies) for images, copies in itertools.product((1, 3, 7), (1, 2, 3))]


def denoiser_in_float64(num_classes: int) -> Denoiser:
    """All layer kinds of the paper's network, attention at two resolutions, and none at zero."""
    torch.manual_seed(0)
    config = small_unet(
        image_size=8, num_channels=3, num_classes=num_classes, attention_resolutions=(4, 8)
    )
    denoiser = Denoiser(UNet(config)).double()
    for parameter in denoiser.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return denoiser


def random_examples(num_images: int, num_copies: int, num_classes: int) -> tuple:
    generator = torch.Generator().manual_seed(num_images)
    images = torch.rand(num_images, 3, 8, 8, generator=generator).double() * 2 - 1
    # repeated labels, and the null label among them
    labels = torch.arange(num_images) % 2 + num_classes - 1 if num_classes else None
    sigma = sample_noise_levels(num_images * num_copies, generator=generator)
    noise = torch.randn(num_images, num_copies, 3, 8, 8, generator=generator).double()
    return images, labels, sigma.view(num_images, num_copies).double(), noise


def loop_of_autograd(model: nn.Module, examples: Any, clip_norm: float) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    total = [torch.zeros_like(p) for p in parameters]
    for index in range(len(examples[0])):
        example: Any = [None if t is None else t[index : index + 1] for t in examples]
        gradient = torch.autograd.grad(denoising_loss(model, *example).sum(), parameters)
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        factor = min(1.0, clip_norm * SHORTENED / norm.item())
        total = [t + factor * g for t, g in zip(total, gradient, strict=True)]
    return dict(zip(names, total, strict=True))


@pytest.mark.parametrize(
    ("shape", "num_classes"), [(shape, 3 * (case % 2)) for case, shape in enumerate(SHAPES)]
)
@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_the_sum_is_that_of_an_autograd_loop_to_a_grid_step_an_image(strategy, shape, num_classes):
    model, examples = (
        denoiser_in_float64(num_classes),
        random_examples(shape[0], shape[1], num_classes),
    )
    norms = [
        torch.cat([g.flatten() for g in loop_of_autograd(model, one, 1e9).values()]).norm()
        for one in ([t if t is None else t[i : i + 1] for t in examples] for i in range(shape[0]))
    ]
    # the median image's norm: about half are clipped; with one image, twice its norm and half
    for clip_norm in (0.5 * norms[0].item(), torch.stack(norms).median().item() * 1.01):
        engine = Engine(strategy, micro_batch_size=3, num_workers=2)
        found = ClippedGradientSum(denoising_loss, model, clip_norm=clip_norm, engine=engine)(
            examples
        )
        expected = loop_of_autograd(model, examples, clip_norm)
        steps = shape[0] * grid_step(clip_norm)  # every image is cut to whole steps
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=steps)


LAYERS = {
    "convolution": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 5)),
    "strided convolution": (nn.Conv2d(2, 3, 3, stride=2, padding=(1, 0), bias=False), (2, 7, 6)),
    "1x1 convolution": (nn.Conv2d(2, 3, 1), (2, 4, 4)),
    "large convolution": (nn.Conv2d(16, 32, 3, padding=1), (16, 32, 32)),
    "linear": (nn.Linear(4, 3), (4,)),
    "linear on a sequence": (nn.Linear(4, 3, bias=False), (5, 4)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("copies", [1, 2])
def test_every_layer_kind_has_exact_gradients_of_weights_and_input(kind, copies):
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    layer = layer.double()
    before = nn.Linear(1, 1).double()  # its gradient comes through the layer's input
    x = torch.randn(3, copies, *shape).double()

    def losses(model, x: Tensor) -> Tensor:
        y = model(x.flatten(0, 1))
        return (
            (y.tanh() * torch.linspace(1, 2, y[0].numel()).view_as(y[0]))
            .flatten(1)
            .sum(1)
            .view(-1, copies)
            .mean(1)
        )

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.layer = before, layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.before(x[..., None])[..., 0])

    model = Model()
    found = per_image_gradients(losses, folded_copy(model), (x,), num_images=3)
    wanted = list(model.parameters())
    for image in range(3):
        expected = torch.autograd.grad(losses(model, x[image : image + 1])[0], wanted)
        for (name, value), g in zip(found.items(), expected, strict=True):
            torch.testing.assert_close(value[image], g, rtol=1e-9, atol=1e-9, msg=name)


def test_a_layer_that_is_used_twice_adds_up():
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    x = torch.randn(4, 3).double()

    def losses(model, x: Tensor) -> Tensor:
        return model(model(x).tanh()).sum(1)

    found = per_image_gradients(losses, folded_copy(layer), (x,), num_images=4)
    wanted = list(layer.parameters())
    for image in range(4):
        expected = torch.autograd.grad(losses(layer, x[image : image + 1])[0], wanted)
        torch.testing.assert_close([value[image] for value in found.values()], list(expected))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_a_convolution_without_a_rule_is_refused(layer):
    with pytest.raises(ConfigError, match="strategy loop"):
        folded_copy(layer)


def test_a_folded_copy_shares_the_weights_and_leaves_the_network_as_it_was():
    model = denoiser_in_float64(3)
    copied = folded_copy(model)
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    assert type(model.unet.stem) is nn.Conv2d


@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_bfloat16_changes_a_gradient_by_less_than_two_percent(strategy):
    # 8 bits of mantissa: single products are off by up to 0.4 %, sums by about as much
    model = denoiser_in_float64(3).float()
    examples = tuple(t.float() if t.is_floating_point() else t for t in random_examples(4, 4, 3))

    def gradient(precision) -> Tensor:
        engine = Engine(strategy, precision=precision)
        found = ClippedGradientSum(denoising_loss, model, clip_norm=1e3, engine=engine)(examples)
        assert all(value.dtype == torch.float64 for value in found.values())
        return torch.cat([value.flatten() for value in found.values()])

    exact, rounded = gradient("float32"), gradient("bfloat16")
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_with_one_copy_an_image_the_sum_is_that_of_opacus(strategy):
    model, examples = denoiser_in_float64(3), random_examples(5, 1, 3)
    hooked: Any = GradSampleModule(denoiser_in_float64(3), loss_reduction="sum")
    denoising_loss(hooked, *examples).sum().backward()
    samples: dict[str, Any] = {
        name.removeprefix("_module."): parameter.grad_sample  # what Opacus adds to a parameter
        for name, parameter in hooked.named_parameters()
    }
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in samples.values()]).norm(dim=0)
    clip_norm = norms.median().item() * 1.01
    factors = (clip_norm * SHORTENED / norms).clamp(max=1)
    engine = Engine(strategy, micro_batch_size=2)
    found = ClippedGradientSum(denoising_loss, model, clip_norm=clip_norm, engine=engine)(examples)
    for name, value in found.items():
        expected = torch.einsum("i,i...->...", factors, samples[name])
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=5 * grid_step(clip_norm))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_has_the_same_gradient_bits_at_every_place_of_a_pass(precision, workers):
    model = denoiser_in_float64(3).float()
    examples = tuple(t.float() if t.is_floating_point() else t for t in random_examples(9, 2, 3))
    engine = Engine("folded", micro_batch_size=4, num_workers=workers, precision=precision)
    sum_of = ClippedGradientSum(denoising_loss, model, clip_norm=1e-2, engine=engine)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    found, again = sum_of(examples), sum_of([t[order] for t in examples])
    assert all(torch.equal(value, again[name]) for name, value in found.items())
    sum_of.check_independence([t[:4] for t in examples])
