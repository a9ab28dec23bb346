"""A released generator, opened from its weights alone: `model.safetensors` says of itself what
network it is for and which classes it knows.

All public: network and class names stand on the model card as well. A file of a stranger is held
against what it says before any memory is taken for it, and no pickle is read.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from privimage.data.image_set import ONE_CLASS, ImageSet
from privimage.diffusion.build import unet_config
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.sampler import SIGMA_MAX
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.errors import DataInvalidError, DataMissingError, RunFolderError
from privimage.files.durable import file_sha256
from privimage.files.plain_files import inside, read_bounded
from privimage.release.checksums import CHECKSUMS, read_checksums
from privimage.release.image_files import load_images
from privimage.run_folder import manifest
from privimage.run_folder.checkpoint import about_weights, load_weights, weights_are_insecure
from privimage.semantics.sketches import Sketches, sketches_from
from privimage.settings.config import NetworkConfig, SamplingConfig, load_config
from privimage.settings.validation import validated

WEIGHTS, MOMENTS = "model.safetensors", "query/moments.safetensors"
SKETCHES = "begins_with_sketches"
# of images for whose run there are no settings here: the default of own images
USUAL_SAMPLING = SamplingConfig(num_images=1, sampler="dpm_solver", num_steps=12)
MAX_BYTES = 2**30  # of the moments
MAX_SIZE, MAX_BLOCKS = 512, 64  # pixels, blocks a level: far above all that is in use


@dataclass(frozen=True)
class ReleasedModel:
    """A generator in evaluation mode, on the CPU, and what is known of it."""

    denoiser: Denoiser
    class_names: tuple[str, ...]  # one, where the generator takes no label
    insecure: bool  # the noise that it rests on had a seed: no guarantee holds
    sampling: SamplingConfig  # as its run drew images, where that is known; of any number
    sha256: str
    sketches: Sketches | None = None  # where drawing begins, if the model was trained for that


def about_model(
    network: UNetConfig, images: ImageSet, *, begins_with_sketches: bool
) -> dict[str, Any]:
    """What goes with the weights, as JSON values."""
    about = {"network": dataclasses.asdict(network), "class_names": list(images.class_names)}
    return about | ({SKETCHES: True} if begins_with_sketches else {})


def open_released_model(place: Path) -> ReleasedModel:
    """The generator of a finished run, of what was published of one, or of its weights alone.

    RunFolderError for a run that did not finish, DataMissingError where there are no weights, and
    DataInvalidError for a file that is not the one that the run left, or no generator.
    """
    path = _weights_in(place) if place.is_dir() else place
    if not path.is_file():
        raise DataMissingError(
            f"there is no {path}; give a finished run folder, what was published of one, or its "
            f"{WEIGHTS}"
        )
    about, shapes = about_weights(path)
    if about is None and place.is_dir():
        about = _about_of_run(place)
    network, class_names = _checked(path, about, shapes)
    sketches = None
    if about is not None and about.get(SKETCHES, False):
        sketches = _sketches(place, network, num_labels=len(class_names))
    denoiser = Denoiser(UNet(network), largest_noise=sketches.noise_level if sketches else math.inf)
    load_weights(path, denoiser)
    sampling, settings = USUAL_SAMPLING, path.with_name("config.yaml")
    if place.is_dir() and settings.is_file():
        sampling = load_config(settings).sampling
    return ReleasedModel(
        denoiser=denoiser.eval(),
        class_names=class_names,
        insecure=weights_are_insecure(path),
        sampling=sampling,
        sha256=file_sha256(path),
        sketches=sketches,
    )


def _weights_in(folder: Path) -> Path:
    """The weights of a folder, which are those that its run left there."""
    path = inside(folder, WEIGHTS)
    if (folder / "stages").is_dir() and not (folder / "record.json").is_file():
        raise RunFolderError(f"{folder} holds no finished run; repeat the command that makes it")
    known = manifest.results(folder, "finetune")
    if (folder / CHECKSUMS).is_file():
        known = read_checksums(folder) | known
    if path.is_file() and WEIGHTS in known and file_sha256(path) != known[WEIGHTS]:
        raise DataInvalidError(f"{path} is not the file that its run left; copy it again")
    return path


def _sketches(place: Path, network: UNetConfig, *, num_labels: int) -> Sketches:
    """What drawing begins with, from the file beside the weights."""
    path = inside(place, MOMENTS) if place.is_dir() else place / MOMENTS
    if not path.is_file():
        raise DataMissingError(
            f"drawing from {place} begins with sketches, and {MOMENTS} is not there; give the "
            "run folder, or what was published of it, with that file"
        )
    known = manifest.results(place, "moments")
    if (place / CHECKSUMS).is_file():
        known = read_checksums(place) | known
    if MOMENTS in known and file_sha256(path) != known[MOMENTS]:
        raise DataInvalidError(f"{path} is not the file that its run left; copy it again")
    num_pixels = network.num_channels * network.image_size**2
    try:
        sketches = sketches_from(load_tensors(read_bounded(path, max_bytes=MAX_BYTES)))
        size = sketches.found.mean.shape[1]
        shapes = [tuple(t.shape) for t in (*sketches.found, sketches.frame.back)]
        if shapes != [(num_labels, size), (num_labels, size, size), (size, num_pixels)]:
            raise ValueError("other shapes")
        if not 0 < sketches.noise_level < SIGMA_MAX:
            raise ValueError("a noise level that there is not")
    except (SafetensorError, LookupError, ValueError, RuntimeError, TypeError) as error:
        raise DataInvalidError(
            f"{path} does not hold the moments of this model; copy it again"
        ) from error
    return sketches


def _about_of_run(folder: Path) -> dict[str, Any] | None:
    """What goes with weights that a version before this one wrote, from the run around them."""
    settings, images = inside(folder, "config.yaml"), inside(folder, "images.npz")
    if not (settings.is_file() and images.is_file()):
        return None
    drawn = load_images(images)
    return about_model(unet_config(load_config(settings), drawn), drawn, begins_with_sketches=False)


def _checked(
    path: Path, about: Any, shapes: dict[str, tuple[int, ...]]
) -> tuple[UNetConfig, tuple[str, ...]]:
    """Network and class names, once the weights are found to be of that network."""
    try:
        config, names = _described(about)
        with torch.device("meta"):  # takes no memory
            wanted = Denoiser(UNet(config)).state_dict()
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise DataInvalidError(
            f"{path} does not say which generator it holds; give the {WEIGHTS} of a run of this "
            "version, or the whole folder of an older run"
        ) from error
    if {name: tuple(tensor.shape) for name, tensor in wanted.items()} != shapes:
        raise DataInvalidError(f"{path} holds other weights than it says; copy it again")
    return config, names


def _described(about: Any) -> tuple[UNetConfig, tuple[str, ...]]:
    """What `about_model` wrote; ValueError, TypeError or LookupError for anything else."""
    network, names = dict(about["network"]), tuple(about["class_names"])
    shape = {name: network.pop(name) for name in ("image_size", "num_channels", "num_classes")}
    settings = validated(NetworkConfig, network, where="its network")
    is_shape = all(type(value) is int for value in shape.values())
    if not (is_shape and 0 < shape["image_size"] <= MAX_SIZE and shape["num_channels"] in (1, 3)):
        raise ValueError("the shape of its images")
    if settings.blocks_per_level > MAX_BLOCKS:
        raise ValueError("its blocks")
    "".join(names).encode()  # text, and no halves of characters, which fit into no file
    if len({*names}) != len(names) or len(names) != max(1, shape["num_classes"]):
        raise ValueError("its classes")
    settings = dataclasses.replace(settings, dropout=0.0)  # there is none in drawing
    return UNetConfig(**dataclasses.asdict(settings), **shape), names if shape["num_classes"] else (
        ONE_CLASS,
    )
