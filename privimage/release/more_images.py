"""More images from a released generator, at no privacy cost: they follow from weights that were
paid for (post-processing), however many there are.

Public: weights, labels, seed and images. Labels go round the classes, or all are of one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from privimage.diffusion.generate import class_labels, drawn_batches
from privimage.diffusion.sampler import SAMPLERS
from privimage.errors import ConfigError
from privimage.machine.hardware import (
    Compute,
    default_num_workers,
    resolved_precision,
    usual_device,
)
from privimage.release.image_writers import ImageStream, check_output, write_stream
from privimage.release.released_model import ReleasedModel, open_released_model
from privimage.run_folder.runlog import Progress, silent

SHOWN_LABELS = 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be drawn. `sampler` and `num_steps` default to those of the model's run."""

    num_images: int
    label: str | None = None  # the name of a class; None: all in turn
    seed: int = 0
    sampler: str | None = None
    num_steps: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("num_images", 1), ("num_steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; give at least {least}")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ConfigError(f"there is no sampler {self.sampler!r}; choose {', '.join(SAMPLERS)}")


def sample_more(
    place: Path, wanted: Wanted, out: Path, *, kind: str, progress: Progress = silent
) -> ReleasedModel:
    """Draw images from the generator at `place` into `out`; the model, as it was opened.

    `kind` is one of `image_writers.FORMATS`. The same model, `wanted` and kind of machine give the
    same bytes; no seed gives the images of the run itself once more. Raises a UserError, before
    anything is written, for what can be put right.
    """
    check_output(out, kind=kind)
    model = open_released_model(place)
    only = _label_number(model, wanted.label)
    sampling = replace(
        model.sampling,
        num_images=wanted.num_images,
        sampler=wanted.sampler or model.sampling.sampler,
        num_steps=wanted.num_steps or model.sampling.num_steps,
    )
    device = usual_device()
    compute = Compute(
        num_workers=default_num_workers(device), precision=resolved_precision("auto", device)
    )
    batches = drawn_batches(
        model.denoiser.to(device),
        sampling,
        generator=torch.Generator(device).manual_seed(other_seed(wanted.seed)),
        compute=compute,
        only=only,
        sketches=model.sketches,
    )
    stream = ImageStream(
        batches=_told(batches, wanted.num_images, progress),
        labels=class_labels(wanted.num_images, model.denoiser.unet.config.num_classes, only=only),
        class_names=model.class_names,
        insecure=model.insecure,
        about={
            "model_sha256": model.sha256,
            "num_images": wanted.num_images,
            "seed": wanted.seed,
            "sampler": sampling.sampler,
            "num_steps": sampling.num_steps,
        },
    )
    write_stream(out, stream, kind=kind)
    return model


def other_seed(seed: int) -> int:
    """A seed that no run draws its images with: those use the seed of their settings as it is."""
    return int(np.random.SeedSequence([seed, 2]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _label_number(model: ReleasedModel, label: str | None) -> int | None:
    if label is None:
        return None
    if not model.denoiser.is_conditional:
        raise ConfigError(f"the generator takes no label, and {label!r} is one; leave it out")
    if label not in model.class_names:
        more = len(model.class_names) - SHOWN_LABELS
        names = ", ".join(model.class_names[:SHOWN_LABELS]) + f" and {more} more" * (more > 0)
        raise ConfigError(f"there is no label {label!r}; choose {names}")
    return model.class_names.index(label)


def _told(batches: Iterator[Tensor], num: int, progress: Progress) -> Iterator[Tensor]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        progress("sample", done, num)
