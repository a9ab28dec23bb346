"""CIFAR's pickles: only the published files, and only arrays and basic types in them."""

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from privimage.data.public.cifar import CIFAR10, CIFAR100, CifarFiles, read_cifar, read_pickle
from privimage.errors import DataInvalidError


def write_pickle(path: Path, value) -> str:
    content = pickle.dumps(value, protocol=3)
    path.write_bytes(content)
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write_batches(root: Path) -> tuple[CifarFiles, np.ndarray]:
    pixels = np.random.default_rng(0).integers(256, size=(4, 3072), dtype=np.uint8)
    train = {
        "one": write_pickle(root / "one", {"data": pixels[:2], "labels": [1, 0]}),
        "two": write_pickle(root / "two", {"data": pixels[2:3], "labels": [1]}),
    }
    test = {"three": write_pickle(root / "three", {"data": pixels[3:], "labels": [0]})}
    meta = {"meta": write_pickle(root / "meta", {"label_names": ["cat", "dog"]})}
    return replace(CIFAR10, train=train, test=test, meta=meta), pixels


def test_batches_are_joined_in_order_as_red_green_and_blue_planes(tmp_path):
    files, pixels = write_batches(tmp_path)
    train = read_cifar(tmp_path, "train", files=files, source="cifar10")
    assert train.labels.tolist() == [1, 0, 1]
    assert train.class_names == ("cat", "dog")
    # A row holds 1,024 red values, then green, then blue, each row by row.
    assert train.images[2, 1, 0, 5] == pixels[2, 1024 + 5]
    assert train.images[2, 2, 3, 5] == pixels[2, 2048 + 3 * 32 + 5]
    assert len(read_cifar(tmp_path, "test", files=files, source="cifar10")) == 1


def test_an_altered_file_is_refused_before_it_is_unpickled(tmp_path):
    write_pickle(tmp_path / "batch", {"data": 1})
    with pytest.raises(DataInvalidError, match="is not the published file"):
        read_pickle(tmp_path / "batch", expected_md5="0" * 32)


class RunsCode:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return (self.function, ("echo the pickle was run",))


@pytest.mark.parametrize("function", [os.system, eval, np.load, np.fromfile])
def test_a_pickle_that_asks_for_code_is_refused_even_under_the_right_hash(tmp_path, function):
    md5 = write_pickle(tmp_path / "batch", {"data": RunsCode(function)})
    with pytest.raises(DataInvalidError, match="which image batches do not need"):
        read_pickle(tmp_path / "batch", expected_md5=md5)


def test_a_missing_batch_is_named(tmp_path):
    files, _ = write_batches(tmp_path)
    (tmp_path / "two").unlink()
    with pytest.raises(DataInvalidError, match="two cannot be read"):
        read_cifar(tmp_path, "train", files=files, source="cifar10")


@pytest.mark.parametrize(
    ("files", "published"), [(CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)]
)
def test_file_names_and_hashes_are_those_that_torchvision_publishes(files, published):
    assert files.folder == published.base_folder
    assert files.train == dict(published.train_list)
    assert files.test == dict(published.test_list)
    assert files.meta == {published.meta["filename"]: published.meta["md5"]}
    assert files.names_key == published.meta["key"]
