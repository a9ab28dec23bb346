"""Synthetic images from a finished model, and a picture of some of them (SPEC A.7).

Labels go round the classes in turn: class frequencies of the sensitive set were never asked for and
are not used. Everything here is post-processing of released weights, at no privacy cost.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from jaxtyping import Int, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from privimage.checkpoint import NOT_KEPT, Checkpoint
from privimage.data.image_set import to_uint8
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.sampler import SAMPLERS
from privimage.errors import ConfigError
from privimage.hardware import Compute, Workers, autocast
from privimage.world import ALONE, World


def generate_images(
    denoiser: Denoiser,
    *,
    num_images: int,
    num_classes: int,
    sampler: str,
    num_steps: int,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
    compute: Compute = Compute(),  # noqa: B008 (it is frozen)
    on_progress: Callable[[int], None] | None = None,
    checkpoint: Checkpoint = NOT_KEPT,
    world: World = ALONE,
) -> tuple[UInt8[Tensor, "num channel height width"], Int64[Tensor, " num"]]:
    """Images and labels on the CPU, image i of class i mod num_classes.

    With `num_classes` 0 (an unconditional network) all labels are 0. The noise comes from
    `generator`, which lives on `device`; another batch size gives other images, another number of
    workers the same, and so does an interruption if there is a `checkpoint`. Puts `denoiser` in
    evaluation mode. `on_progress` gets the number of images done. The processes of `world` take the
    batches in turn; the leader gets all images, and only there are they all in the result.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler is {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    config = denoiser.unet.config
    assert num_classes == config.num_classes, "labels are those of the network"
    denoiser.eval()
    labels = torch.arange(num_images) % max(num_classes, 1)
    images = torch.empty(
        num_images, config.num_channels, config.image_size, config.image_size, dtype=torch.uint8
    )
    workers = Workers(compute.num_workers)
    denoise = torch.compile(denoiser) if compute.compiled else denoiser

    def draw(latents: Tensor, classes: Tensor | None) -> Tensor:
        with torch.inference_mode(), autocast(device, compute.precision):
            drawn = SAMPLERS[sampler](denoise, latents, classes, num_steps=num_steps)
            return to_uint8(drawn).cpu()

    known = world.tell(checkpoint.load())
    done = 0 if known is None else len(known["images"])
    images[:done] = known["images"] if known is not None else images[:0]
    batches = [slice(a, min(a + batch_size, num_images)) for a in range(0, num_images, batch_size)]
    for first in range(0, len(batches), world.size):
        together = batches[first : first + world.size]
        for sender, part in enumerate(together):  # all draw the noise, so that all streams agree
            latents = torch.randn(images[part].shape, generator=generator, device=device)
            if part.stop > done and sender == world.rank:
                classes = labels[part].to(device) if num_classes else None
                shares = workers.shares(len(latents))
                pieces = [
                    (latents[share], None if classes is None else classes[share])
                    for share in shares
                ]
                images[part] = torch.cat(workers.map(lambda piece: draw(*piece), pieces))
        for sender, part in enumerate(together):
            if part.stop > done:
                images[part] = world.send_to_leader(images[part], sender=sender)
        if checkpoint.is_due() and together[-1].stop > done:
            checkpoint.save({"images": images[: together[-1].stop].clone()})
        if on_progress is not None and together[-1].stop > done:
            on_progress(together[-1].stop)
    return images, labels


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
    chosen = {label: images[labels == label][:per_class] for label in range(len(class_names))}
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
