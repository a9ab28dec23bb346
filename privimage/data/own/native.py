"""The size and colours that a source's images have by themselves, found without reading them all.

For a `folder:` set one image is opened and only its shape is used. So that is a fact of one image,
which `privimage synthesize` uses only where it was not declared, and then names as assumed to be
public.
"""

import io
from pathlib import Path

from PIL import Image

from privimage.data.own.archives import open_listing
from privimage.data.own.array_folder import find_array_folder, map_arrays
from privimage.data.own.arrays import channels_first
from privimage.data.own.image_tree import IMAGE_FORMATS, files_by_class
from privimage.data.own.npz import read_arrays
from privimage.data.places import PREPARED
from privimage.data.preparation import Preparation
from privimage.data.sources import FOLDER_PREFIX, default_data_root, locate
from privimage.errors import ConfigError, DataInvalidError

NATIVE = {
    "digits": Preparation(8, "grey"),
    "mnist": Preparation(28, "grey"),
    "fashion_mnist": Preparation(28, "grey"),
    "cifar10": Preparation(32, "rgb"),
    "cifar100": Preparation(32, "rgb"),
    **{name: Preparation(size, "rgb") for name, size in PREPARED.items()},
}


def native_preparation(
    source: str, *, data_root: Path | None = None, classes: tuple[str, ...] | None = None
) -> Preparation:
    """What leaves the images of `source` as they are: the short edge, grey only if all are grey."""
    if source in NATIVE:
        return NATIVE[source]
    if source == "glyphs":
        raise ConfigError(
            "glyphs are rendered in the size and colours that are asked for, and have none of "
            "their own; declare image_size and color"
        )
    locate(source, "train", data_root=data_root or default_data_root())  # names a mistake
    path = Path(source.removeprefix(FOLDER_PREFIX)).expanduser()
    folder = find_array_folder(path, "train", source=source)
    if folder or (path.suffix == ".npz" and path.is_file()):
        arrays = map_arrays(folder, source=source) if folder else read_arrays(path, source=source)
        if "images" not in arrays:
            raise DataInvalidError(f"{source} has no array named images; save it under that name")
        images = channels_first(arrays["images"][:1], source=source)
        return Preparation(min(images.shape[2:]), "grey" if images.shape[1] == 1 else "rgb")
    with open_listing(path) as listing:
        found, _ = files_by_class(listing, split="train", source=source, classes=classes)
        member = next((member for files in found.values() for member in files), None)
        if member is None:
            raise DataInvalidError(f"{source} holds no images; declare their size and colour")
        content = member.read()
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            grey = image.mode in ("1", "L", "LA")
            return Preparation(min(image.size), "grey" if grey else "rgb")
    except Exception as error:  # a decoder may raise anything on a damaged or hostile file
        raise DataInvalidError(
            f"{member.name} is not a readable image ({type(error).__name__}); repair or remove it"
        ) from error
