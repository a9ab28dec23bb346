"""Trees of images as folder and as zip: the same set comes out, and hostile ones are refused."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privimage.data.own import archives
from privimage.data.own.archives import open_listing
from privimage.data.own.image_tree import decode, decode_all, natural_key, read_image_tree
from privimage.data.preparation import Preparation
from privimage.errors import DataInvalidError, DataMissingError

GREY4 = Preparation(image_size=4, color="grey")


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(path: Path, split: str | None = "train"):
    return read_image_tree(path, split=split, preparation=GREY4, source="the set")


@pytest.fixture(params=["folder", "zip"])
def make_tree(request, tmp_path):
    def make(files: dict[str, bytes]) -> Path:
        if request.param == "zip":
            return write_zip(tmp_path / "set.zip", files)
        return write_tree(tmp_path / "set", files)

    return make


def test_class_folders_become_labels_in_natural_order(make_tree):
    path = make_tree({"c10/1.png": png(3), "c2/10.png": png(2), "c2/9.png": png(1)})
    image_set = read(path)
    assert image_set.class_names == ("c2", "c10")
    assert image_set.labels.tolist() == [0, 0, 1]
    assert image_set.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert image_set.public_size == 3


def test_a_flat_folder_is_one_class(make_tree):
    image_set = read(make_tree({"b.png": png(2), "a.png": png(1)}))
    assert (image_set.class_names, image_set.labels.tolist()) == (("all",), [0, 0])


def test_train_and_test_folders_are_the_splits(make_tree):
    path = make_tree({"train/a/1.png": png(1), "test/a/1.png": png(2), "test/b/1.png": png(3)})
    assert read(path, "train").images[:, 0, 0, 0].tolist() == [1]
    assert read(path, "test").images[:, 0, 0, 0].tolist() == [2, 3]


def test_a_set_without_split_folders_has_no_test_images(make_tree):
    path = make_tree({"a/1.png": png(1), "train/1.png": png(1)})
    assert read(path, "train").class_names == ("a", "train")
    with pytest.raises(DataMissingError, match="no test images"):
        read(path, "test")


def test_a_set_with_test_images_alone_gives_none_for_training(make_tree):
    with pytest.raises(DataMissingError, match="no train images"):
        read(make_tree({"test/a/1.png": png(1)}), "train")


def test_a_folder_around_the_whole_tree_is_looked_through(make_tree):
    path = make_tree({"my set/a/1.png": png(1), "my set/b/1.png": png(2)})
    assert read(path).class_names == ("a", "b")


def test_hidden_files_are_skipped_and_other_files_reported(make_tree, caplog):
    files = {"a/1.png": png(1), "a/.2.png": b"", ".git/3.png": b"", "__MACOSX/a/1.png": b""}
    image_set = read(make_tree({**files, "a/notes.txt": b"", "README.md": b""}))
    assert len(image_set) == 1
    assert "2 files are not images" in caplog.text


def test_images_below_and_beside_class_folders_are_refused(make_tree):
    with pytest.raises(DataInvalidError, match=r"a/deep/1\.png does not lie directly"):
        read(make_tree({"a/deep/1.png": png(1), "b/1.png": png(1)}))


def test_a_corrupt_image_is_named(make_tree):
    path = make_tree({"a/1.png": png(1), "a/broken.png": png(1)[:40]})
    with pytest.raises(DataInvalidError, match=r"a/broken\.png is not a readable image"):
        read(path)


@pytest.mark.parametrize("num_threads", [1, 5])
def test_many_threads_decode_bit_for_bit_what_one_image_after_the_other_gives(
    make_tree, num_threads
):
    def photograph(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (11, 9, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        return buffer.getvalue()

    path = make_tree({f"a/{index}.jpg": photograph(index) for index in range(200)})
    with open_listing(path) as listing:
        images = decode_all(listing.files, GREY4, num_threads=num_threads)
        serial = [decode(member, GREY4) for member in listing.files]
    assert np.array_equal(images.numpy(), np.stack(serial))


def test_of_several_corrupt_images_the_first_is_named(make_tree):
    files = {f"a/{index:03}.png": png(1) for index in range(400)}
    files |= {f"a/{index}.png": b"" for index in ("150", "151", "390")}
    with pytest.raises(DataInvalidError, match=r"a/150\.png"):
        read(make_tree(files))


def test_an_image_whose_content_is_of_a_format_that_is_not_allowed_is_refused(make_tree):
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "TIFF")
    with pytest.raises(DataInvalidError, match=r"a/1\.png is not a readable image"):
        read(make_tree({"a/1.png": buffer.getvalue()}))


def test_a_sixteen_bit_image_is_named(make_tree):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(buffer, "PNG")
    with pytest.raises(DataInvalidError, match=r"a/1\.png: the image has more than 8 bits"):
        read(make_tree({"a/1.png": buffer.getvalue()}))


def test_a_pixel_bomb_is_refused_before_it_is_decoded(make_tree):
    # A PNG header that promises 20000 x 20000 pixels: 400 million, from a few bytes.
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    with pytest.raises(DataInvalidError, match=r"a/bomb\.png has more than \d+ pixels"):
        read(make_tree({"a/bomb.png": bomb}))


def test_a_moderately_large_image_is_held_to_our_own_limit(make_tree, monkeypatch):
    monkeypatch.setattr("privimage.data.own.image_tree.MAX_IMAGE_PIXELS", 15)
    with pytest.raises(DataInvalidError, match="more than 15 pixels"):
        read(make_tree({"a/1.png": png(1)}))  # 16 pixels


def test_a_member_of_too_many_bytes_is_refused(make_tree, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataInvalidError, match="larger than"):
        read(make_tree({"a/1.png": png(1)}))


def test_a_set_beyond_the_memory_limit_is_refused(make_tree, monkeypatch):
    monkeypatch.setattr("privimage.data.preparation.MAX_SET_BYTES", 31)
    with pytest.raises(DataInvalidError, match="2 images of 4 pixels"):  # 2 * 16 bytes
        read(make_tree({"a/1.png": png(1), "a/2.png": png(1)}))


def test_a_set_without_images_is_refused(make_tree):
    with pytest.raises(DataInvalidError, match="holds no images"):
        read(make_tree({"a/notes.txt": b""}))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_empty_folder_is_a_class_without_images(tmp_path, kind):
    path = write_tree(tmp_path / "set", {"cat/1.png": png(1), "owl/1.png": png(3)})
    (path / "dog").mkdir()
    if kind == "zip":
        files = {"cat/1.png": png(1), "dog/": b"", "owl/1.png": png(3)}
        path = write_zip(tmp_path / "set.zip", files)
    image_set = read(path)
    assert image_set.class_names == ("cat", "dog", "owl")
    assert image_set.labels.tolist() == [0, 2]


DECLARED = ("owl", "cat", "dog")


def read_declared(path: Path, classes=DECLARED, split="train"):
    return read_image_tree(path, split=split, preparation=GREY4, source="the set", classes=classes)


def test_declared_classes_keep_their_order_and_may_be_without_images(make_tree):
    image_set = read_declared(make_tree({"cat/1.png": png(1), "owl/1.png": png(3)}))
    assert image_set.class_names == DECLARED
    assert image_set.images[:, 0, 0, 0].tolist() == [3, 1]
    assert image_set.labels.tolist() == [0, 1]
    assert image_set.left_out == ()


@pytest.mark.parametrize(
    "odd",
    [
        {"bird/1.png": png(9)},
        {"1.png": png(9)},
        {"cat/deep/1.png": png(9)},
        {"cat/9.png": png(1)[:40]},
        {"cat/9.tiff": png(9)},
        {"cat/9.png": b""},
    ],
)
def test_with_declared_classes_an_odd_file_changes_nothing_but_what_its_owner_is_told(
    make_tree, odd, caplog
):
    usual = {"cat/1.png": png(1), "dog/1.png": png(2)}
    image_set = read_declared(make_tree(usual | odd))
    assert image_set.images[:, 0, 0, 0].tolist() == [1, 2]
    assert (image_set.labels.tolist(), image_set.public_size) == ([1, 2], 2)
    (told,) = image_set.left_out
    assert told.startswith(next(iter(odd)))
    assert caplog.text == ""


@pytest.mark.parametrize("around", ["", "my set/"])
def test_with_declared_classes_a_file_belongs_to_the_split_that_its_own_path_names(
    make_tree, around
):
    files = {"train/cat/1.png": png(1), "test/cat/1.png": png(2), "dog/1.png": png(3)}
    path = make_tree({around + name: content for name, content in files.items()})
    assert read_declared(path).images[:, 0, 0, 0].tolist() == [1, 3]
    assert read_declared(path, split="test").images[:, 0, 0, 0].tolist() == [2]


def test_declared_to_have_no_classes_all_images_count_wherever_they_lie(make_tree):
    image_set = read_declared(make_tree({"cat/1.png": png(1), "2.png": png(2)}), classes=())
    assert (image_set.class_names, len(image_set)) == (("all",), 2)


def test_a_declared_set_may_have_no_image_at_all(tmp_path):
    (tmp_path / "set").mkdir()
    image_set = read_declared(tmp_path / "set")
    assert (len(image_set), image_set.class_names) == (0, DECLARED)


@pytest.mark.parametrize("name", ["../a/1.png", "/a/1.png", "a/../../1.png", "C:/a/1.png"])
def test_a_zip_that_climbs_out_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(DataInvalidError, match="not a relative path"):
        read(write_zip(tmp_path / "set.zip", {"a/2.png": png(1), name: png(1)}))


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        link = zipfile.ZipInfo("a/1.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataInvalidError, match=r"a/1\.png in the zip file is a link"):
        read(tmp_path / "set.zip")


def test_a_damaged_zip_member_is_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"a/1.png": png(1)})
    content = bytearray(path.read_bytes())
    content[45] ^= 0xFF  # inside the compressed data, which starts at 30 + len("a/1.png") = 37
    path.write_bytes(content)
    with pytest.raises(DataInvalidError, match=r"a/1\.png in the zip file is damaged"):
        read(path)


def test_an_encrypted_member_is_refused(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"a/1.png": png(1)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag bits of the central directory
    path.write_bytes(content)
    with pytest.raises(DataInvalidError, match="encrypted"):
        read(path)


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(b"not a zip")
    with pytest.raises(DataInvalidError, match="neither a folder nor a readable zip"):
        read(path)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_it_followed(tmp_path):
    write_tree(tmp_path, {"secret.png": png(9), "set/a/1.png": png(1)})
    (tmp_path / "set/a/2.png").symlink_to(tmp_path / "set/a/1.png")
    assert read(tmp_path / "set").images[:, 0, 0, 0].tolist() == [1, 1]
    (tmp_path / "set/a/3.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataInvalidError, match=r"a/3\.png is a link that leads out"):
        read(tmp_path / "set")


def test_a_link_to_a_folder_is_refused_instead_of_left_out(tmp_path):
    write_tree(tmp_path, {"set/a/1.png": png(1)})
    (tmp_path / "set/b").symlink_to(tmp_path / "set/a")
    with pytest.raises(DataInvalidError, match="b is a link to a folder"):
        read(tmp_path / "set")


def test_natural_order_compares_numbers_by_value_and_survives_absurd_ones():
    names = ["b", "a10", "A2", "a" + "9" * 5000, "10", "9"]
    ordered = sorted(names, key=natural_key)
    assert ordered == ["9", "10", "A2", "a10", "a" + "9" * 5000, "b"]


def test_a_link_that_leads_nowhere_is_refused_instead_of_left_out(tmp_path):
    write_tree(tmp_path / "set", {"a/1.png": png(1)})
    (tmp_path / "set/a/2.png").symlink_to(tmp_path / "set/a/gone.png")
    with pytest.raises(DataInvalidError, match=r"a/2\.png is a pipe, a device or a link that"):
        read(tmp_path / "set")


def test_a_pipe_in_the_place_of_a_zip_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(DataInvalidError, match="is a pipe"):
        read(tmp_path / "set.zip")


@pytest.mark.parametrize("second", ["a/1.png", "./a/1.png", "a//1.png"])
def test_a_name_that_stands_twice_in_a_zip_is_refused(tmp_path, second):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/1.png", png(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's own, for the first of them
            archive.writestr(second, png(2))
    with pytest.raises(DataInvalidError, match="two members of one name"):
        read(tmp_path / "set.zip")
