"""Folders of arrays: mapped, checked like any other set, and never copied to a cache."""

import gc
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from privimage.data.own.array_folder import find_array_folder
from privimage.data.own.native import native_preparation
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.errors import ConfigError, DataInvalidError, DataMissingError
from privimage.machine import memory


def write(folder, *, images=None, labels=None, names=("cat", "dog")):
    folder.mkdir(parents=True, exist_ok=True)
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(len(images)) % 2 if labels is None else labels)
    (folder / "class_names.json").write_text(json.dumps(names))
    return images


def load(folder, *, size=8, color: Literal["rgb", "grey"] = "rgb", split="train"):
    preparation = Preparation(image_size=size, color=color)
    return load_image_set(f"folder:{folder}", split, preparation=preparation)


def anonymous_mib():
    """What is held. A run in an earlier test may have told malloc to keep what was freed: that is
    given back first.
    """
    gc.collect()
    memory.give_back_freed_blocks()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def test_a_folder_of_arrays_is_read_as_it_is(tmp_path):
    images = write(tmp_path)
    found = load(tmp_path)
    assert torch.equal(found.images, torch.from_numpy(images))
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.class_names == ("cat", "dog")


def test_a_set_of_200_mib_is_mapped_and_named_without_being_held_in_memory(tmp_path):
    tmp_path.joinpath("big").mkdir()
    shape = (65_536, 3, 32, 32)  # 192 MiB; the file is sparse
    np.lib.format.open_memmap(tmp_path / "big" / "images.npy", "w+", np.uint8, shape)
    np.save(tmp_path / "big" / "labels.npy", np.zeros(shape[0], np.int64))
    before = anonymous_mib()
    found = load(tmp_path / "big", size=32)
    found.fingerprint(b"key")
    assert len(found) == shape[0]
    assert anonymous_mib() - before < 64


def test_other_sizes_are_prepared_like_those_of_an_array_in_memory(tmp_path):
    images = write(tmp_path)
    preparation = Preparation(image_size=4, color="grey")
    expected = preparation.prepare(torch.from_numpy(images))
    assert torch.equal(load(tmp_path, size=4, color="grey").images, expected)


def test_splits_lie_in_folders_and_a_missing_one_is_named(tmp_path):
    write(tmp_path / "train")
    assert find_array_folder(tmp_path, "train", source="s") == tmp_path / "train"
    with pytest.raises(DataMissingError, match="has no test images"):
        load(tmp_path, split="test")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"images": np.zeros((6, 3, 8, 8), np.float32)}, "images"),
        ({"labels": np.array([0, 1, 2, 0, 0, 0])}, "label"),
        ({"labels": np.array([0, 1])}, "label"),
        ({"names": {"a": 1}}, "list of texts"),
    ],
)
def test_a_faulty_array_is_named(tmp_path, changes, part):
    write(tmp_path, **changes)
    with pytest.raises(DataInvalidError, match=part):
        load(tmp_path)


def test_a_truncated_array_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "images.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataInvalidError, match="more than it holds"):
        load(tmp_path)


def test_a_pickle_in_the_place_of_an_array_is_refused(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "labels.npy", np.array([{}] * 6, dtype=object), allow_pickle=True)
    with pytest.raises(DataInvalidError, match=r"labels\.npy is a pickle"):
        load(tmp_path)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path):
    write(tmp_path / "elsewhere")
    write(tmp_path / "set")
    (tmp_path / "set" / "labels.npy").unlink()
    (tmp_path / "set" / "labels.npy").symlink_to(tmp_path / "elsewhere" / "labels.npy")
    with pytest.raises(DataInvalidError, match="leads out of the folder"):
        load(tmp_path / "set")


def test_labels_of_another_whole_type_are_converted(tmp_path):
    write(tmp_path, labels=np.array([1, 0, 1, 0, 1, 0], np.int8))
    assert load(tmp_path).labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_arrays_are_not_copied_to_the_cache(tmp_path):
    write(tmp_path / "set")
    for size in (8, 4):
        load_image_set(
            f"folder:{tmp_path / 'set'}",
            "train",
            preparation=Preparation(size, "rgb"),
            cache=True,
            cache_dir=tmp_path / "cache",
        )
    assert not (tmp_path / "cache").exists()


def test_the_native_size_is_that_of_the_arrays(tmp_path):
    write(tmp_path)
    assert native_preparation(f"folder:{tmp_path}") == Preparation(8, "rgb")


def test_one_class_of_a_mapped_set_takes_no_memory_of_its_own(tmp_path):
    write(tmp_path)
    image_set = load(tmp_path).without_labels()
    assert image_set.labels.tolist() == [0] * 6
    assert image_set.labels.untyped_storage().nbytes() == 8  # one number


def test_a_split_that_lies_behind_a_link_is_refused(tmp_path):
    write(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataInvalidError, match="train is a link that leads out"):
        load(tmp_path / "set")


@pytest.mark.parametrize("name", ["labels.npy", "class_names.json"])
def test_neither_a_pipe_nor_a_link_that_leads_nowhere_passes_for_an_absent_file(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataInvalidError, match="is a pipe"):
        load(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(DataInvalidError, match="cannot be read"):
        load(tmp_path)


def test_what_is_rendered_at_any_size_has_none_of_its_own():
    with pytest.raises(ConfigError, match="declare image_size and color"):
        native_preparation("glyphs")
