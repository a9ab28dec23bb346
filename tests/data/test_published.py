"""Where published sets are looked for, and what is said when they are not there."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from privimage.data import published
from privimage.data.preparation import Preparation
from privimage.data.published import PUBLISHED, find_published, places_of
from privimage.errors import DataInvalidError, DataMissingError

GREY4 = Preparation(image_size=4, color="grey")


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
    write_idx(mnist_root / "MNIST/raw/train-labels-idx1-ubyte", np.arange(2))
    _, reader = find_published("mnist", "train", data_root=mnist_root)
    with pytest.raises(DataInvalidError, match="3 images for 2 labels"):
        reader(GREY4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_set_may_be_an_image_folder_or_a_zip_of_one(tmp_path, name, monkeypatch):
    monkeypatch.setitem(PUBLISHED, name, published.Published(torchvision_class="None"))
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


def test_what_is_missing_is_told_with_every_path_tried_and_a_remedy(tmp_path):
    with pytest.raises(DataMissingError) as caught:
        find_published("cifar10", "test", data_root=tmp_path)
    message = str(caught.value)
    for name in ("cifar-10-batches-py", "cifar10-test.zip", "cifar10/test"):
        assert str(tmp_path / name) in message
    assert "PRIVIMAGE_DATA" in message
    assert "\n" not in message


def test_fashion_mnist_is_also_looked_for_where_debian_installs_it(tmp_path):
    paths = [path for path, _ in places_of("fashion_mnist", "train", data_root=tmp_path)]
    folder = Path("/usr/share/dataset-fashion-mnist")
    assert folder / "train-images-idx3-ubyte.gz" in paths
    assert tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte" in paths


def test_garment_names_are_those_of_the_authors():
    assert list(PUBLISHED["fashion_mnist"].class_names) == datasets.FashionMNIST.classes


def test_a_download_asks_torchvision_for_both_splits_and_explains_a_failure(tmp_path, monkeypatch):
    asked = []

    def offline(root, train, *, download):
        asked.append((root, train, download))
        if not train:
            raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(DataMissingError, match=r"could not be downloaded .*no route to host"):
        published.download("cifar10", data_root=tmp_path)
    assert asked == [(tmp_path, True, True), (tmp_path, False, True)]


def real_data_root() -> Path | None:
    beside = Path(__file__).parents[3] / "shared" / "data"
    roots = [Path(os.environ["PRIVIMAGE_DATA"])] if "PRIVIMAGE_DATA" in os.environ else [beside]
    return next((root for root in roots if (root / "cifar10-test.zip").exists()), None)


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
