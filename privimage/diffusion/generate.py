"""Synthetic images from a finished model, and a picture of some of them (docs/method.md, 7).

Labels go round the classes in turn: class frequencies of the sensitive set are not used. Everything
here is post-processing of what was released, at no privacy cost.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Int, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from privimage.data.image_set import to_uint8
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.sampler import SAMPLERS, SIGMA_MAX
from privimage.errors import ConfigError
from privimage.machine.hardware import Compute, Workers, autocast
from privimage.machine.processes import ALONE, World
from privimage.semantics.sketches import Sketches
from privimage.settings.config import SamplingConfig


def class_labels(
    num_images: int, num_classes: int, *, only: int | None = None
) -> Int64[Tensor, " num"]:
    """Image i is of class i mod num_classes, or all are of class `only`; all are 0 where there are
    no classes.
    """
    if only is not None:
        return torch.full((num_images,), only)
    return torch.arange(num_images) % max(num_classes, 1)


def drawn_batches(
    denoiser: Denoiser,
    config: SamplingConfig,
    *,
    generator: torch.Generator,
    compute: Compute = Compute(),  # noqa: B008 (it is frozen)
    done: int = 0,
    only: int | None = None,
    sketches: Sketches | None = None,
    world: World = ALONE,
) -> Iterator[UInt8[Tensor, "_ channel height width"]]:
    """The images from number `done` on, in order, with the labels of `class_labels`, which is given
    `only`; on the CPU.

    The noise comes from `generator`, which lives on the network's device; another batch size gives
    other images, another number of workers the same, and so does going on after `done`, an end of a
    batch, with a fresh generator. Puts `denoiser` in evaluation mode. The processes of `world` take
    the batches in turn; the leader gets all images, every other process only its own, and undefined
    ones in between. Drawing begins with noise alone, or on `sketches`.
    """
    if (sketches is None) != (denoiser.largest_noise == math.inf):
        raise ConfigError(
            "this generator was trained for noise up to "
            f"{denoiser.largest_noise:g}: give `sketches` if, and only if, it begins with them"
        )
    denoiser.eval()
    network, device = denoiser.unet.config, next(denoiser.parameters()).device
    num_images, batch_size = config.num_images, config.batch_size
    labels = class_labels(num_images, network.num_classes, only=only)
    workers = Workers(compute.num_workers)
    denoise = torch.compile(denoiser) if compute.compiled else denoiser

    largest = sketches.noise_level if sketches else SIGMA_MAX

    def draw(latents: Tensor, classes: Tensor | None) -> Tensor:
        with torch.inference_mode(), autocast(device, compute.precision):
            sample = SAMPLERS[config.sampler]
            drawn = sample(denoise, latents, classes, num_steps=config.num_steps, largest=largest)
            return to_uint8(drawn).cpu()

    batches = [slice(a, min(a + batch_size, num_images)) for a in range(0, num_images, batch_size)]
    for first in range(0, len(batches), world.size):
        together = []
        for sender, part in enumerate(batches[first : first + world.size]):
            # every process draws the noise of every batch: generators keep step
            shape = (part.stop - part.start, network.num_channels, *[network.image_size] * 2)
            latents = torch.randn(shape, generator=generator, device=device)
            if sketches is not None:
                size = network.image_size
                drawn = sketches.draw(labels[part], size=size, generator=generator)
                latents = latents + drawn / largest
            images = torch.empty(shape, dtype=torch.uint8)
            if part.start >= done and sender == world.rank:
                classes = labels[part].to(device) if denoiser.is_conditional else None
                shares = workers.shares(len(latents))
                pieces = [
                    (latents[share], None if classes is None else classes[share])
                    for share in shares
                ]
                images = torch.cat(workers.map(lambda piece: draw(*piece), pieces))
            together.append((sender, part, images))
        for sender, part, images in together:
            if part.start >= done:
                yield world.send_to_leader(images, sender=sender)


def generate_images(
    denoiser: Denoiser, config: SamplingConfig, **how: Any
) -> tuple[UInt8[Tensor, "num channel height width"], Int64[Tensor, " num"]]:
    """All images and their labels, in memory, as `drawn_batches` draws them (see there)."""
    images = torch.cat([*drawn_batches(denoiser, config, **how)])
    return images, class_labels(config.num_images, denoiser.unet.config.num_classes)


def sample_grid(
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    class_names: tuple[str, ...],
    *,
    per_class: int,
) -> Image.Image:
    """The first `per_class` images of every class that has any, one row a class, its name at the
    left. Images under 24 pixels are shown three times as large.
    """
    numbers = {label: torch.nonzero(labels == label)[:, 0] for label in range(len(class_names))}
    chosen = {label: images[found[:per_class]] for label, found in numbers.items()}
    rows = [(class_names[label], row) for label, row in chosen.items() if len(row)]
    cell = images.shape[-1] * (_ENLARGED if images.shape[-1] < 24 else 1)
    font = _font()
    names = [_shortened(name, font) for name, _ in rows]
    left = _GAP + max((round(font.getlength(name)) for name in names), default=0)
    pitch, height = cell + _GAP, max(cell, _LINE_HEIGHT) + _GAP
    num_columns = max((len(row) for _, row in rows), default=0)
    size = (left + _GAP + num_columns * pitch, _GAP + len(rows) * height)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for index, (_, row) in enumerate(rows):
        top = _GAP + index * height
        middle = top + (height - _GAP) / 2
        draw.text((left, middle), names[index], fill="black", font=font, anchor="rm")
        for column, image in enumerate(row):
            place = (left + _GAP + column * pitch, top + (height - _GAP - cell) // 2)
            picture.paste(_picture(image).resize((cell, cell), Image.Resampling.NEAREST), place)
    return picture


_ENLARGED, _GAP, _FONT_SIZE, _LINE_HEIGHT = 3, 4, 12, 16
_LONGEST_NAME = 240  # pixels


def _picture(image: Tensor) -> Image.Image:
    array = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships: class names may be in any European language."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(folder / "DejaVuSans.ttf", _FONT_SIZE)


def _shortened(name: str, font: ImageFont.FreeTypeFont) -> str:
    """`name` in one line, cut with an ellipsis when it is wider than a row's label may be."""
    name = " ".join(name.split())
    if font.getlength(name) <= _LONGEST_NAME:
        return name
    while name and font.getlength(name + "…") > _LONGEST_NAME:
        name = name[:-1]
    return name + "…"
