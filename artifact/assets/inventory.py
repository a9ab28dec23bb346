"""The image sets and weights that claims use: what each is, its terms, its files, how it is got.

All published; none is part of the bundle. This one table feeds `artifact fetch`, `artifact doctor`
and the errors of a run. Whether an asset is there is answered by a look at names, without torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from privimage.data.places import (
    CELEBA,
    CELEBA_MALE,
    DOWNLOADED,
    IMAGENET,
    PREPARED,
    default_data_root,
    find_inception,
    find_place,
)
from privimage.data.public.pinned_files import (
    CELEBA_ATTRIBUTES,
    CELEBA_IMAGES,
    CELEBA_SPLITS,
    DOWNLOADS,
    IMAGENET_DEVKIT,
    IMAGENET_TRAIN,
    IMAGENET_VAL,
    PublishedFile,
)
from privimage.errors import ConfigError

FID_WEIGHTS = "inception"
BUNDLED = ("digits", "glyphs")
IMAGENET_IMAGES, CELEBA_IMAGES_USED = 1_281_167 + 50_000, 162_770 + 19_962  # train, test
RESEARCH = "non-commercial research only"
IMAGENET_STEPS = (
    "register at https://image-net.org/signup and accept the terms (an approval may take days)",
    "from https://image-net.org/challenges/LSVRC/2012/2012-downloads.php fetch into one folder:",
)
CELEBA_STEPS = (
    "read the agreement at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "from its download folder (Img, Eval and Anno) fetch into one folder:",
)


@dataclass(frozen=True)
class Asset:
    """One row of the table. `steps` are what a person must do first; none if it is downloaded."""

    name: str
    what: str
    terms: str
    disk_bytes: int
    files: tuple[PublishedFile, ...]
    steps: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "test")  # without which the asset is not there

    @property
    def command(self) -> str:
        """What to type to get it."""
        return f"artifact fetch {self.name}" + (" --from FOLDER" if self.steps else "")

    @property
    def remedy(self) -> str:
        """The same for a message of one line."""
        if not self.steps:
            return self.command
        files = ", ".join(file.name for file in self.files)
        return f"{self.command} (a folder with {files}; `artifact fetch {self.name}` says whence)"


def _downloaded(
    name: str,
    megabytes: int,
    what: str,
    terms: str,
    *,
    splits: tuple[str, ...] = ("train", "test"),
) -> Asset:
    return Asset(name, what, terms, megabytes * 10**6, DOWNLOADS[name], splits=splits)


def _imagenet(name: str, size: int) -> Asset:
    what = f"ImageNet (ILSVRC 2012), 1,281,167 + 50,000 images of 1,000 classes at {size}x{size}"
    files = (IMAGENET_TRAIN, IMAGENET_VAL, IMAGENET_DEVKIT)
    disk_bytes = IMAGENET_IMAGES * (3 * size**2 + 8)
    return Asset(name, what, RESEARCH, disk_bytes, files, IMAGENET_STEPS)


def _celeba(name: str, size: int) -> Asset:
    classes = "in two classes by the attribute Male" if name in CELEBA_MALE else "as one class"
    what = f"CelebA, 162,770 + 19,962 faces at {size}x{size}, {classes}"
    files = (CELEBA_IMAGES, CELEBA_SPLITS, *((CELEBA_ATTRIBUTES,) if name in CELEBA_MALE else ()))
    disk_bytes = CELEBA_IMAGES_USED * (3 * size**2 + 8)
    return Asset(name, what, RESEARCH, disk_bytes, files, CELEBA_STEPS)


ASSETS = {
    asset.name: asset
    for asset in (
        _downloaded(
            "cifar10",
            187,
            "CIFAR-10, 60,000 images at 32x32",
            "no licence stated; cite Krizhevsky 2009",
        ),
        _downloaded(
            "cifar100",
            187,
            "CIFAR-100, 60,000 images at 32x32",
            "no licence stated; cite Krizhevsky 2009",
            splits=("train",),  # it is only ever the public set
        ),
        _downloaded("fashion_mnist", 31, "Fashion-MNIST, 70,000 images at 28x28", "MIT"),
        _downloaded(
            "mnist",
            12,
            "MNIST, 70,000 images at 28x28",
            "no licence stated; cite LeCun et al. 1998",
        ),
        _downloaded("inception", 96, "Inception v3 for FID, as pytorch-fid has it", "Apache-2.0"),
        *(_imagenet(name, size) for name, size in IMAGENET.items()),
        *(_celeba(name, size) for name, size in (CELEBA | CELEBA_MALE).items()),
    )
}


def missing_assets(names: Iterable[str], data_root: Path | None = None) -> dict[str, str]:
    """Name and one-line remedy of those that are not there; only names are looked at."""
    root = data_root or default_data_root()
    assets = [find_asset(name) for name in names if name not in BUNDLED]
    return {asset.name: asset.remedy for asset in assets if not places_found(asset, root)}


def find_asset(name: str) -> Asset:
    """The asset of that name; ConfigError with all names if there is none."""
    if name not in ASSETS:
        raise ConfigError(f"there is no asset {name!r}; choose {', '.join(ASSETS)}")
    return ASSETS[name]


def places_found(asset: Asset, data_root: Path) -> list[Path]:
    """Where the asset lies, one place a split; empty if any that it needs is not there."""
    if asset.name not in (*DOWNLOADED, *PREPARED):
        weights = find_inception(data_root)
        return [weights] if weights else []
    places = {s: find_place(asset.name, s, data_root=data_root) for s in ("train", "test")}
    if not all(places[split] for split in asset.splits):
        return []
    return [place.path for place in places.values() if place]


def how_to_get(asset: Asset) -> str:
    """What the asset is, and every step to it, for people."""
    width = max(len(file.name) for file in asset.files)
    size = {file.name: f", {file.num_bytes:,} bytes" for file in asset.files if file.num_bytes}
    files = [f"{f.name:{width}}  {f.checksum}{size.get(f.name, '')}" for f in asset.files]
    lines = [
        f"{asset.name}: {asset.what}; {asset.disk_bytes / 1e9:.2g} GB on the disk",
        f"terms: {asset.terms}",
    ]
    steps = (*asset.steps, "") if asset.steps else ("fetch into one folder:", "")
    for number, step in enumerate(steps[:-1], start=1):
        lines.append(f"{number}. {step}")
    for file, line in zip(asset.files, files, strict=True):
        lines += [f"     {line}", *(f"       {url}" for url in file.urls)]
    return "\n".join([*lines, f"{len(steps)}. type: artifact fetch {asset.name} --from FOLDER"])
