"""What a DP-SGD step costs beside an ordinary one: one table, all engines in the same run.

    python bench/dp_step.py [--images 8] [--copies 8] [--size 32] [--rounds 5] [--threads 1]

Rows: the ordinary step (the floor: it clips nothing), our engine, and Opacus's hooks with one
gradient a copy, which is what the published scripts do. The rounds are interleaved and the median
is shown; only ratios within one run mean anything.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus import GradSampleModule

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss, sample_noise_levels
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.privacy.per_example import clipped_gradient_sum

Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    denoiser = paper_network(options.size)
    examples = random_examples(options.images, options.copies, options.size)
    steps = {
        "ordinary step (floor)": lambda: ordinary_step(denoiser, examples),
        "folded (ours)": lambda: clipped_gradient_sum(
            denoising_loss,
            denoiser,
            examples,
            clip_norm=1e-3,
            micro_batch_size=options.images,
        ),
        "Opacus hooks, one gradient a copy": opacus_step(paper_network(options.size), examples),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(options.rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if round_number:  # the first is warm-up
                seconds[name].append(time.perf_counter() - started)
    show(seconds, options)


def paper_network(size: int) -> Denoiser:
    """cifar10_32 s: 1,754,499 parameters at 32 pixels, moved off its initial zeros."""
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(UNetConfig(size, 3, 10, attention_resolutions=(size // 2,))))
    for parameter in denoiser.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return denoiser


def random_examples(images: int, copies: int, size: int) -> Examples:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, 3, size, size, generator=generator) * 2 - 1
    labels = torch.randint(0, 11, (images,), generator=generator)
    sigma = sample_noise_levels(images * copies, generator=generator).view(images, copies)
    noise = torch.randn(images, copies, 3, size, size, generator=generator)
    return pixels, labels, sigma, noise


def ordinary_step(denoiser: Denoiser, examples: Examples) -> None:
    denoiser.zero_grad(set_to_none=True)
    denoising_loss(denoiser, *examples).mean().backward()


def opacus_step(denoiser: Denoiser, examples: Examples) -> Callable[[], None]:
    """Per-copy gradients by hooks, averaged over the copies, clipped and summed."""
    hooked = GradSampleModule(denoiser)
    parameters: list[Any] = list(hooked.parameters())  # Opacus adds an attribute to them
    num_images, copies = examples[2].shape

    def step() -> None:
        hooked.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            denoising_loss(hooked, *examples).mean().backward()
        averaged = [p.grad_sample.view(num_images, copies, *p.shape).mean(1) for p in parameters]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in averaged]).norm(dim=0)
        factor = (1e-3 / (norms + 1e-6)).clamp(max=1.0)
        for parameter, gradient in zip(parameters, averaged, strict=True):
            parameter.grad = torch.einsum("i,i...->...", factor, gradient)
            parameter.grad_sample = None

    return step


def show(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    floor = statistics.median(next(iter(seconds.values())))
    print(
        f"{options.images} images x {options.copies} copies at {options.size} pixels, "
        f"{options.threads} thread(s), torch {torch.__version__}, median of {options.rounds}"
    )
    print("| step | images/s | times the floor | fastest to slowest, s |\n|---|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"| {name} | {options.images / median:.2f} | {median / floor:.2f} "
            f"| {min(times):.2f} to {max(times):.2f} |"
        )


if __name__ == "__main__":
    main()
