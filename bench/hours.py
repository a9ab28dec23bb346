"""Hours that the paper's settings would take on this machine, from a few measured steps of each.

    python bench/hours.py [--device cuda] [--eager]

Pre-training, DP fine-tuning (150, 450 and 1,000 steps) and sampling of 50,000 images for the three
main networks of the paper. An extrapolation: images/s times the number of images.
"""

import argparse
from functools import partial
from typing import Any

import torch
from harness import publish, seconds_per_call

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import generate_images
from privimage.diffusion.loss import denoising_loss
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.gradients.engine_choice import choose_engine
from privimage.gradients.mean_gradient import MeanGradient
from privimage.machine.hardware import Compute, default_num_workers, resolved_precision
from privimage.privacy.clipping import ClippedGradientSum
from privimage.settings.config import FinetuneConfig, PerformanceConfig, SamplingConfig
from privimage.training.finetune import made_up_examples

# network; images of pre-training; expected batch and steps of fine-tuning (all with K = 8)
COLOUR: dict[str, Any] = {"num_channels": 3}
CELEBA: dict[str, Any] = COLOUR | {"num_classes": 0, "attention_resolutions": (8, 16)}
SETTINGS = {
    "CIFAR-10": (UNetConfig(image_size=32, num_classes=10, **COLOUR), 260e6, 16_666, 150),
    "CelebA32": (UNetConfig(image_size=32, **CELEBA), 78e6, 18_085, 450),
    "CelebA64": (
        UNetConfig(image_size=64, channel_multipliers=(1, 1, 2, 2), **CELEBA),
        78e6,
        8_138,
        1000,
    ),
}
COLUMNS = ["setting", "pre-training", "DP fine-tuning", "50,000 samples", "sum", "engine"]
NUM_SAMPLES, SAMPLING_STEPS, COPIES = 50_000, 50, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--eager", action="store_true", help="without compiled code")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows, figures, sums = [], {}, {}
    for name, setting in SETTINGS.items():
        figures[name] = measured = rates(device, *setting, eager=options.eager)
        _, pretrain_images, batch, steps = setting
        hours = [
            pretrain_images / measured["pretrain"] / 3600,
            batch * steps / measured["finetune"] / 3600,
            NUM_SAMPLES / measured["sampling"] / 3600,
        ]
        speeds = [measured["pretrain"], measured["finetune"], measured["sampling"]]
        cells = [f"{h:,.2f} ({s:,.1f}/s)" for h, s in zip(hours, speeds, strict=True)]
        rows.append([name, *cells, f"{sum(hours):,.1f}", measured["engine"]])
        sums[name] = sum(hours)
        publish(  # after each setting: a run that is cut off has shown something
            f"hours_{device.type}", title="Hours of the paper's settings, extrapolated (images/s)",
            columns=COLUMNS, rows=rows, settings={"copies": COPIES, "eager": options.eager},
            figures=figures, device=device, hours=sums,
        )  # fmt: skip


def rates(
    device: torch.device,
    network: UNetConfig,
    _images: float,
    batch: int,
    steps: int,
    *,
    eager: bool,
) -> dict[str, Any]:
    """Images/s of the three stages, and the engine that was chosen."""
    precision, workers = resolved_precision("auto", device), default_num_workers(device)
    compute = Compute(workers, precision)
    denoiser = Denoiser(UNet(network)).to(device)
    on_gpu = device.type == "cuda"
    tuning = FinetuneConfig(learning_rate=3e-4, noise_multiplicity=COPIES)
    ordinary = FinetuneConfig(learning_rate=3e-4, noise_multiplicity=1)

    size = 1024 if on_gpu else 32
    gradient_of = MeanGradient(denoising_loss, denoiser, compute=compute)
    examples = made_up_examples(denoiser, ordinary, size)
    seconds = seconds_per_call(lambda: gradient_of(examples), device=device, calls=3)
    result: dict[str, Any] = {"pretrain": size / min(seconds)}

    made_up = partial(made_up_examples, denoiser, tuning)
    engine = choose_engine(
        denoising_loss, denoiser, made_up, num_images=batch * steps, batch_size=256,
        wanted=PerformanceConfig(compile=None if on_gpu and not eager else False),
    )  # fmt: skip
    sum_of = ClippedGradientSum(denoising_loss, denoiser, clip_norm=1e-3, engine=engine)
    size = 256 if on_gpu else engine.micro_batch_size * workers
    examples = made_up(size)
    seconds = seconds_per_call(lambda: sum_of(examples), device=device, calls=3)
    result["finetune"], result["engine"] = size / min(seconds), f"{engine.strategy}, {precision}"
    result["engine"] += ", compiled" if engine.compiled else ""

    size, num_steps = (1024, SAMPLING_STEPS) if on_gpu else (16, 2)
    draw = partial(
        generate_images,
        denoiser,
        SamplingConfig(num_images=size, num_steps=num_steps, batch_size=size),
        compute=compute,
    )
    generator = torch.Generator(device)
    seconds = seconds_per_call(lambda: draw(generator=generator), device=device, calls=1)
    result["sampling"] = size / min(seconds) * num_steps / SAMPLING_STEPS
    return result


if __name__ == "__main__":
    main()
