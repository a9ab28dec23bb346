"""`artifact fetch`: get image sets and weights, or say which are there, missing or damaged.

What can be downloaded is downloaded; ImageNet and CelebA are prepared from archives that a person
obtained. Every archive is checked against its published checksum, and there is no way around that.
Repeating a command goes on where it stopped. All published data, nothing private.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifact.assets.inventory import (
    ASSETS,
    FID_WEIGHTS,
    Asset,
    find_asset,
    how_to_get,
    places_found,
)
from artifact.exit_codes import EnvironmentUnfitError
from privimage.data.own.image_tree import SPLITS
from privimage.data.own.native import NATIVE
from privimage.data.places import CELEBA_MALE, IMAGENET, PREPARED, default_data_root
from privimage.data.public.array_writer import Plan, damage_of, partial_folder, write_set
from privimage.data.public.celeba import plan_celeba
from privimage.data.public.downloads import install, is_offline
from privimage.data.public.imagenet import plan_imagenet
from privimage.data.public.pinned_files import INCEPTION, Progress, PublishedFile, check_file
from privimage.data.public.published_sets import find_published
from privimage.errors import ConfigError, DataInvalidError, DataMissingError
from privimage.files.durable import write_json_durably
from privimage.machine.limits import free_disk_bytes, why_not_writable
from privimage.machine.terminal.plain_text import say as say_plainly

CHECKED = "checked_archives.json"  # so that 138 GB are not read again after an interruption
Say = Callable[..., None]  # as print, a line each


@dataclass(frozen=True)
class AssetState:
    """What was found of an asset: present, missing or damaged, where, and what to do."""

    name: str
    state: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name:14} {self.state:8} {self.detail}"


def fetch_assets(
    names: Sequence[str],
    *,
    archives: Path | None,
    classes: str | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
    say: Say = say_plainly,
) -> None:
    """Get the named assets; without names, all that can be downloaded."""
    assets = [find_asset(name) for name in names] or [a for a in ASSETS.values() if not a.steps]
    _check_request(assets, archives=archives, classes=classes)
    root = default_data_root()
    for asset in assets:
        places = places_found(asset, root) if classes is None else []
        if places:
            say(f"{asset.name}: there already, {_listed(places)}")
        elif asset.steps and archives is None:
            say(*how_to_get(asset).splitlines())
            raise DataMissingError(f"{asset.name} needs its official archives; {asset.remedy}")
        elif archives is None and (offline or is_offline()):
            say(*how_to_get(asset).splitlines())
            raise DataMissingError(
                f"{asset.name} is missing, and downloads are forbidden (--offline or "
                f"PRIVIMAGE_OFFLINE); get its files elsewhere, then {asset.command} --from FOLDER"
            )
        elif archives is not None and asset.steps:
            prepare(asset, archives, root, classes=classes, on_progress=on_progress, say=say)
        else:
            require_room(root, 2 * asset.disk_bytes)
            install(asset.name, data_root=root, archives=archives, on_progress=on_progress)
            say(f"{asset.name}: {_listed(places_found(asset, root))}")


def prepare(
    asset: Asset,
    archives: Path,
    data_root: Path,
    *,
    classes: str | None,
    on_progress: Progress | None = None,
    say: Say = say_plainly,
) -> None:
    """Check the archives, then write the arrays; the quick checks come first."""
    small = [file for file in asset.files if file.num_bytes is None]
    large = [file for file in asset.files if file.num_bytes is not None]
    for file in small:
        check_file(file, archives / file.name)
    plan = plan_of(asset, archives, classes=classes)
    target = data_root / plan.name
    if target.exists():
        say(f"{plan.name}: there already, {target}")
        return
    require_room(data_root, plan.num_bytes, begun=partial_folder(data_root, plan.name))
    for file in large:
        check_once(file, archives / file.name, data_root, on_progress=on_progress)
    write_set(plan, data_root, on_progress=on_progress)
    use = f"; name it folder:{target}" if classes else ""
    numbers = ", ".join(f"{len(s.labels):,} {name}" for name, s in plan.splits.items())
    say(f"{plan.name}: {numbers} images of {len(plan.class_names)} classes, {target}{use}")


def plan_of(asset: Asset, archives: Path, *, classes: str | None) -> Plan:
    """What the asset's arrays will hold; reads the small files only."""
    size = PREPARED[asset.name]
    if asset.name in IMAGENET:
        return plan_imagenet(asset.name, size, archives=archives, classes=classes)
    return plan_celeba(asset.name, size, archives=archives, by_male=asset.name in CELEBA_MALE)


def check_once(
    file: PublishedFile, path: Path, data_root: Path, *, on_progress: Progress | None = None
) -> None:
    """Check an archive, unless the very same one was found right before."""
    memory = data_root / CHECKED
    known = json.loads(memory.read_text()) if memory.exists() else {}
    status = path.stat() if path.exists() else None
    seen = [str(path.resolve()), status.st_size, status.st_mtime_ns] if status else None
    if seen is None or known.get(file.digest) != seen:
        check_file(file, path, on_progress=on_progress)
        write_json_durably(memory, known | {file.digest: seen})


def require_room(data_root: Path, num_bytes: int, *, begun: Path | None = None) -> None:
    """EnvironmentUnfitError if the data folder cannot be written or has not that much room."""
    if reason := why_not_writable(data_root):
        raise EnvironmentUnfitError(
            f"{data_root} cannot be written ({reason}); point PRIVIMAGE_DATA at a folder that can"
        )
    files = begun.rglob("*") if begun else ()
    needed = num_bytes - sum(file.stat().st_blocks * 512 for file in files)
    if needed > (free := free_disk_bytes(data_root)):
        raise EnvironmentUnfitError(
            f"{data_root} has {free / 1e9:.3g} GB free, and {needed / 1e9:.3g} GB are needed; free "
            "some space, or point PRIVIMAGE_DATA at a folder on a larger disk"
        )


def verify_assets(names: Iterable[str], *, on_progress: Progress | None = None) -> list[AssetState]:
    """The state of the named assets, or of all; everything that is there is read."""
    assets = [find_asset(name) for name in names] or list(ASSETS.values())
    root, states = default_data_root(), []
    for number, asset in enumerate(assets):
        if on_progress:
            on_progress("verifying", number, len(assets))
        states.append(_state_of(asset, root))
    return states


def _state_of(asset: Asset, data_root: Path) -> AssetState:
    places = places_found(asset, data_root)
    if not places:
        begun = partial_folder(data_root, asset.name).exists()
        return AssetState(asset.name, "missing", ("half prepared; " * begun) + asset.remedy)
    if damage := _damage(asset, data_root, places):
        remedy = f"remove {_listed(places)}, then {asset.command}"
        return AssetState(asset.name, "damaged", f"{damage}; {remedy}")
    lacking = "" if asset.name == FID_WEIGHTS or len(places) == 2 else " (train only)"
    return AssetState(asset.name, "present", _listed(places) + lacking)


def _damage(asset: Asset, data_root: Path, places: list[Path]) -> str | None:
    if asset.name in PREPARED:
        return damage_of(data_root / asset.name)
    try:
        if asset.name == FID_WEIGHTS:
            check_file(INCEPTION, places[0])
        else:
            for split in SPLITS[: len(places)]:
                _, reader = find_published(asset.name, split, data_root=data_root)
                reader(NATIVE[asset.name])  # checks what there is to check: MD5, CRC, all images
    except DataInvalidError as error:
        return str(error)
    return None


def _check_request(assets: list[Asset], *, archives: Path | None, classes: str | None) -> None:
    if archives is not None and not archives.is_dir():
        raise ConfigError(
            f"--from {archives} is not a folder; give the folder that has the archives"
        )
    others = [asset.name for asset in assets if asset.name not in IMAGENET]
    if classes is not None and (others or archives is None):
        raise ConfigError(
            f"--classes goes with {' or '.join(IMAGENET)} and --from FOLDER; "
            f"given {', '.join(asset.name for asset in assets)} with --from {archives}"
        )


def _listed(places: Iterable[Path]) -> str:
    return " and ".join(dict.fromkeys(str(place) for place in places))
