"""npz files: three layouts of images, and nothing that is pickled or lies about its size."""

import io
import os
import zipfile

import numpy as np
import pytest

from privimage.data.own import npz
from privimage.data.own.npz import read_arrays, read_npz
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.errors import DataInvalidError

IMAGES = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
LABELS = np.array([1, 0])


def read(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return read_npz(tmp_path / "set.npz", preparation=Preparation(8, "rgb"), source="the set")


def test_images_may_have_their_channels_first_or_last(tmp_path):
    first = read(tmp_path, images=IMAGES, labels=LABELS)
    last = read(tmp_path, images=IMAGES.transpose(0, 2, 3, 1), labels=LABELS)
    assert np.array_equal(first.images, IMAGES)
    assert np.array_equal(last.images, IMAGES)
    assert first.class_names == ("0", "1")
    assert first.labels.tolist() == [1, 0]


def test_grey_images_may_lack_the_channel(tmp_path):
    image_set = read(tmp_path, images=IMAGES[:, 0], labels=LABELS)
    assert np.array_equal(image_set.images, IMAGES[:, :1].repeat(3, axis=1))


def test_class_names_are_kept_even_for_a_class_without_images(tmp_path):
    names = np.array(["cat", "dog", "owl"])
    assert read(tmp_path, images=IMAGES, labels=LABELS, class_names=names).class_names == tuple(
        names
    )


def read_declared(tmp_path, classes, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    preparation = Preparation(8, "rgb")
    return load_image_set(
        f"folder:{tmp_path / 'set.npz'}", "train", preparation=preparation, classes=classes
    )


@pytest.mark.parametrize("label", [2, -1, 10**12])
def test_with_declared_classes_an_image_of_another_label_is_left_out(tmp_path, label):
    labels = np.array([label, 0])
    image_set = read_declared(tmp_path, ("cat", "dog"), images=IMAGES, labels=labels)
    assert image_set.class_names == ("cat", "dog")
    assert np.array_equal(image_set.images, IMAGES[1:])
    assert (image_set.labels.tolist(), image_set.public_size) == ([0], 1)
    assert image_set.left_out == (f"1 images of label {label}",)


def test_declared_classes_are_found_by_the_names_in_the_file(tmp_path):
    names = np.array(["cat", "dog"])
    arrays = {"images": IMAGES, "labels": LABELS, "class_names": names}
    swapped = read_declared(tmp_path, ("dog", "cat"), **arrays)
    assert (swapped.labels.tolist(), swapped.class_names) == ([0, 1], ("dog", "cat"))
    fewer = read_declared(tmp_path, ("owl", "dog"), **arrays)
    assert (fewer.labels.tolist(), fewer.left_out) == ([1], ("1 images of class cat",))
    assert np.array_equal(fewer.images, IMAGES[:1])


def test_declared_to_have_no_classes_labels_do_not_matter(tmp_path):
    image_set = read_declared(tmp_path, (), images=IMAGES, labels=np.array([-1, 7]))
    assert (image_set.class_names, len(image_set)) == (("all",), 2)


def test_a_declared_file_may_have_no_image_at_all(tmp_path):
    image_set = read_declared(tmp_path, ("a", "b"), images=IMAGES[:0], labels=LABELS[:0])
    assert (len(image_set), image_set.num_classes) == (0, 2)


def test_declared_classes_need_labels(tmp_path):
    with pytest.raises(DataInvalidError, match="no array named labels"):
        read_declared(tmp_path, ("a", "b"), images=IMAGES)


def test_images_without_labels_are_one_class(tmp_path):
    image_set = read(tmp_path, images=IMAGES)
    assert (image_set.class_names, image_set.labels.tolist()) == (("all",), [0, 0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_large_arrays_are_mapped_if_uncompressed_and_come_out_the_same(tmp_path, monkeypatch, save):
    monkeypatch.setattr(npz, "MAPPED_FROM_BYTES", 100)
    save(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    arrays = read_arrays(tmp_path / "set.npz", source="the set")
    assert isinstance(arrays["images"], np.memmap) == (save is np.savez)
    assert type(arrays["labels"]) is np.ndarray  # 16 bytes
    assert np.array_equal(arrays["images"], IMAGES)
    assert np.array_equal(read(tmp_path, images=IMAGES, labels=LABELS).images, IMAGES)


class RunsCode:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("name", ["images", "labels", "class_names", "other"])
def test_a_pickle_is_refused_and_not_run(tmp_path, name):
    arrays = {"images": IMAGES, "labels": LABELS, name: np.array([RunsCode()], dtype=object)}
    with pytest.raises(DataInvalidError, match=rf"{name}\.npy is a pickle"):
        read(tmp_path, **arrays)


def test_a_bare_pickle_in_the_place_of_an_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", b"\x80\x04N.")
    with pytest.raises(DataInvalidError, match="is not an array"):
        read_arrays(tmp_path / "set.npz", source="the set")


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": (10**7, 3, 1000, 1000)}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(DataInvalidError, match="claims 30000000000000 bytes"):
        read_arrays(tmp_path / "set.npz", source="the set")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "no array named images"),
        ({"images": IMAGES.astype(np.float32)}, "give uint8"),
        ({"images": IMAGES[0, 0]}, "give uint8"),
        ({"images": IMAGES[:0]}, "holds no images"),
        ({"images": IMAGES, "labels": np.array([0.0, 1.0])}, "whole numbers"),
        ({"images": IMAGES, "labels": LABELS[:1]}, r"of shape \(2,\)"),
        ({"images": IMAGES, "labels": np.array([0, -1])}, "number the classes from 0"),
        ({"images": IMAGES, "labels": np.array([0, 10**12])}, "number the classes from 0"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["cat"])}, "outside 0 to 0"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": np.array([1, 2])},
            "one text per class",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_a_remedy(tmp_path, arrays, message):
    with pytest.raises(DataInvalidError, match=message):
        read(tmp_path, **arrays)


def test_a_truncated_file_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES)
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:100])
    with pytest.raises(DataInvalidError, match="not a readable npz"):
        read_arrays(tmp_path / "set.npz", source="the set")


def test_changed_pixels_are_noticed_by_the_checksum(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[300] ^= 0xFF  # beyond the zip and npy headers (about 200 bytes), within 384 of pixels
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataInvalidError, match="not a readable npz"):
        read_arrays(tmp_path / "set.npz", source="the set")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "set.npz")
    with pytest.raises(DataInvalidError, match="is a pipe"):
        read_arrays(tmp_path / "set.npz", source="the set")
