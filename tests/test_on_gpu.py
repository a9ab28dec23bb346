"""What can only be checked on a GPU: engines, bfloat16 and compiled code against the CPU."""

import pytest
import torch

from privimage.classifiers.query_network import QueryNetwork
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import generate_images
from privimage.diffusion.loss import denoising_loss, sample_noise_levels
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.gradients.engine import Engine
from privimage.gradients.mean_gradient import MeanGradient
from privimage.machine.hardware import Compute, autocast
from privimage.privacy.clipping import ClippedGradientSum
from privimage.settings.config import SamplingConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of the compiler
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def denoiser(device: torch.device) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(
        UNet(UNetConfig(image_size=16, num_channels=3, num_classes=10, attention_resolutions=(8,)))
    )
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network.to(device)


def examples(device: torch.device) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(7, 3, 16, 16, generator=generator) * 2 - 1
    labels = torch.randint(0, 11, (7,), generator=generator)
    sigma = sample_noise_levels(28, generator=generator).view(7, 4)
    noise = torch.randn(7, 4, 3, 16, 16, generator=generator)
    return tuple(t.to(device) for t in (images, labels, sigma, noise))


def flat(gradient) -> torch.Tensor:
    return torch.cat([value.flatten().cpu().double() for value in gradient.values()])


def clipped(device: torch.device, engine: Engine) -> torch.Tensor:
    sum_of = ClippedGradientSum(denoising_loss, denoiser(device), clip_norm=0.5, engine=engine)
    sum_of(examples(device))
    return flat(sum_of(examples(device)))  # the second call: compiled code is in place


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_the_clipped_sum_is_that_of_the_cpu(strategy, precision, compiled):
    expected = clipped(CPU, Engine("loop"))
    engine = Engine(strategy, 4, precision=precision, compiled=compiled)
    off = (clipped(CUDA, engine) - expected).norm() / expected.norm()
    # TF32 convolutions keep 10 bits, bfloat16 keeps 8
    assert off < (0.05 if precision == "bfloat16" else 0.005)


@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_one_unusable_image_counts_as_zero(strategy):
    sum_of = ClippedGradientSum(
        denoising_loss, denoiser(CUDA), clip_norm=0.5, engine=Engine(strategy, 4)
    )
    images, *rest = examples(CUDA)
    whole = (images.clone(), *rest)
    whole[0][2] = float("nan")
    kept = torch.arange(7, device=CUDA) != 2
    torch.testing.assert_close(
        flat(sum_of(whole)), flat(sum_of([t[kept] for t in whole])), rtol=1e-3, atol=1e-5
    )


def test_an_ordinary_gradient_in_bfloat16_is_near_the_cpu_s():
    found = []
    for device, precision in ((CPU, "float32"), (CUDA, "bfloat16")):
        model = denoiser(device)
        MeanGradient(denoising_loss, model, compute=Compute(precision=precision))(examples(device))
        found.append(flat({n: p.grad for n, p in model.named_parameters()}))
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_images_drawn_compiled_are_near_those_drawn_eagerly():
    drawn = [
        generate_images(
            denoiser(CUDA),
            SamplingConfig(num_images=8, num_steps=10),
            generator=torch.Generator(CUDA).manual_seed(0),
            compute=compute,
        )[0].float()
        for compute in (Compute(), Compute(compiled=True))
    ]
    assert (drawn[0] - drawn[1]).abs().mean() < 2  # of 255


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_the_same_bits_at_any_place_of_a_batch(precision):
    torch.manual_seed(0)
    network = QueryNetwork(100, num_channels=3, widths=(32, 64), blocks=(1, 1), block="basic")
    network.to(CUDA).eval()
    images = torch.rand(256, 3, 32, 32, device=CUDA) * 2 - 1
    with torch.inference_mode(), autocast(CUDA, precision):
        assert torch.equal(network(images.roll(1, 0)).roll(-1, 0), network(images))
