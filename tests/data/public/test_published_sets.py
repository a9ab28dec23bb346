"""Where published sets are looked for, and what is said when they are not there."""

import hashlib
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from privimage.data import places
from privimage.data.own import array_folder
from privimage.data.places import DOWNLOADED, PREPARED, find_place, places_of
from privimage.data.preparation import Preparation
from privimage.data.public import pinned_files as published_files
from privimage.data.public import published_sets as published
from privimage.data.public.cifar import CIFAR10, CIFAR100
from privimage.data.public.pinned_files import DOWNLOADS, INCEPTION, PublishedFile
from privimage.data.public.published_sets import find_published
from privimage.errors import DataInvalidError, DataMissingError

GREY4 = Preparation(image_size=4, color="grey")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist_root(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    for stem, count in (("train", 3), ("t10k", 2)):
        write_idx(folder / f"{stem}-images-idx3-ubyte", np.full((count, 4, 4), count))
        write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(count))
    return tmp_path


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("test", 2)])
def test_mnist_is_read_in_the_layout_of_torchvision(mnist_root, split, count):
    _, reader = find_published("mnist", split, data_root=mnist_root)
    image_set = reader(GREY4)
    assert image_set.labels.tolist() == list(range(count))
    assert image_set.images.unique().tolist() == [count]
    assert image_set.num_classes == 10


def test_images_without_their_labels_are_refused(mnist_root):
    labels = mnist_root / "MNIST/raw/train-labels-idx1-ubyte"
    write_idx(labels, np.arange(2))
    _, reader = find_published("mnist", "train", data_root=mnist_root)
    with pytest.raises(DataInvalidError, match="3 images for 2 labels"):
        reader(GREY4)
    labels.unlink()
    assert find_place("mnist", "train", data_root=mnist_root) is None


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_every_set_may_be_an_image_folder_or_a_zip_of_one(tmp_path, name):
    folder = tmp_path / name / "test" / "owl"
    folder.mkdir(parents=True)
    Image.new("L", (4, 4), 7).save(folder / "1.webp", lossless=True)
    path, reader = find_published(name, "test", data_root=tmp_path)
    assert path == tmp_path / name / "test"
    assert (reader(GREY4).source, reader(GREY4).class_names) == (name, ("owl",))
    with zipfile.ZipFile(tmp_path / f"{name}-test.zip", "w") as archive:
        archive.write(folder / "1.webp", "owl/1.webp")
    path, reader = find_published(name, "test", data_root=tmp_path)
    assert path == tmp_path / f"{name}-test.zip"
    assert reader(GREY4).images.unique().tolist() == [7]


@pytest.mark.parametrize("name", DOWNLOADED)
def test_every_downloaded_set_is_looked_for_as_a_zip_file_too(tmp_path, name):
    assert tmp_path / f"{name}-train.zip" in paths_of(name, tmp_path)


def test_what_is_missing_is_told_with_every_path_tried_and_a_remedy(tmp_path):
    with pytest.raises(DataMissingError) as caught:
        find_published("cifar10", "test", data_root=tmp_path)
    message = str(caught.value)
    for name in ("cifar-10-batches-py", "cifar10-test.zip", "cifar10/test"):
        assert str(tmp_path / name) in message
    assert "artifact fetch cifar10," in message
    assert "PRIVIMAGE_DATA" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", PREPARED)
def test_a_set_that_must_be_prepared_says_with_which_command(tmp_path, name):
    with pytest.raises(DataMissingError, match=f"artifact fetch {name} --from FOLDER"):
        find_published(name, "train", data_root=tmp_path)


def test_a_half_written_set_of_arrays_is_not_taken_for_one(tmp_path):
    folder = tmp_path / "imagenet32/train"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.zeros((1, 3, 32, 32), np.uint8))
    assert find_place("imagenet32", "train", data_root=tmp_path) is None


def test_the_arrays_looked_for_are_those_that_are_read():
    names = (array_folder.IMAGES, array_folder.LABELS, array_folder.CLASS_NAMES)
    assert names == places.ARRAY_FILES


def test_the_folders_of_cifar_are_those_that_are_read():
    assert {"cifar10": CIFAR10.folder, "cifar100": CIFAR100.folder} == places.CIFAR_FOLDERS


def test_checksums_are_whole():
    named = vars(published_files).values()
    files = [file for group in DOWNLOADS.values() for file in group]
    for file in files + [value for value in named if isinstance(value, PublishedFile)]:
        assert re.fullmatch(r"[0-9a-f]+", file.digest)
        assert len(file.digest) == 2 * hashlib.new(file.algorithm).digest_size, file.name
    # by custom the name carries the beginning
    assert f"-{INCEPTION.digest[:8]}.pth" in INCEPTION.name


def test_the_weights_looked_for_are_those_that_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert places.find_inception(tmp_path) is None
    in_hub = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.name
    for path in (in_hub, tmp_path / INCEPTION.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert places.find_inception(tmp_path) == path


def paths_of(name: str, root: Path) -> list[Path]:
    return [place.path for place in places_of(name, "train", data_root=root)]


def test_fashion_mnist_is_also_looked_for_where_debian_installs_it(tmp_path):
    paths = paths_of("fashion_mnist", tmp_path)
    assert DEBIAN / "train-images-idx3-ubyte.gz" in paths
    assert tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte" in paths


@pytest.mark.skipif(not DEBIAN.exists(), reason="dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_real_fashion_mnist_is_read_where_debian_installs_it(tmp_path, split, count):
    path, reader = find_published("fashion_mnist", split, data_root=tmp_path)
    image_set = reader(Preparation(28, "grey"))
    assert path.parent == DEBIAN
    assert image_set.images.shape == (count, 1, 28, 28)
    assert image_set.labels.bincount().tolist() == [count // 10] * 10


def test_garment_names_are_those_of_the_authors():
    assert list(published.GARMENTS) == datasets.FashionMNIST.classes


def test_a_set_that_is_there_is_not_downloaded_again(mnist_root, monkeypatch):
    asked = []
    monkeypatch.setattr(published, "install", lambda name, data_root: asked.append(name))
    published.download("mnist", data_root=mnist_root)
    assert asked == []
    published.download("cifar10", data_root=mnist_root)
    assert asked == ["cifar10"]


def real_data_root() -> Path | None:
    given = os.environ.get("PRIVIMAGE_DATA")
    return Path(given) if given and (Path(given) / "cifar10-test.zip").exists() else None


@pytest.mark.skipif(real_data_root() is None, reason="cifar10-test.zip is not in PRIVIMAGE_DATA")
def test_the_real_cifar_10_test_images_are_read_from_their_zip():
    root = real_data_root()
    assert root is not None
    path, reader = find_published("cifar10", "test", data_root=root)
    image_set = reader(Preparation(image_size=32, color="rgb"))
    assert path.name in ("cifar10-test.zip", "cifar-10-batches-py")
    assert image_set.images.shape == (10_000, 3, 32, 32)
    assert image_set.labels.bincount().tolist() == [1000] * 10
    assert image_set.class_names[:3] == ("airplane", "automobile", "bird")
    # The published mean of the CIFAR-10 images is (.49, .48, .45) of white.
    means = image_set.images.float().mean(dim=(0, 2, 3)) / 255
    assert np.allclose(means, [0.4914, 0.4822, 0.4465], atol=0.01)
