"""The official archives of ImageNet become arrays: right pixels, right labels, and after a stop."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets.imagenet import ARCHIVE_META

from privimage.data.preparation import Preparation
from privimage.data.public import array_writer
from privimage.data.public import pinned_files as published_files
from privimage.data.public.array_writer import damage_of, partial_folder, write_set
from privimage.data.public.imagenet import plan_imagenet, read_devkit
from privimage.data.sources import load_image_set
from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.files.durable import file_sha256
from tests.data.made_archives import SYNSETS, VAL_IDS, WNIDS, imagenet_images, make_imagenet, tar

RGB8 = Preparation(8, "rgb")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp("archives"))


def plan(archives, size=8, classes=None):
    return plan_imagenet("imagenet32", size, archives=archives, classes=classes)


def plainly(content: bytes, size: int = 8) -> np.ndarray:
    """As the published scripts have it: convert, centre crop, Resize, all on PIL images."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    steps = [transforms.CenterCrop(min(image.size)), transforms.Resize((size, size))]
    return np.asarray(transforms.Compose(steps)(image)).transpose(2, 0, 1)


def test_every_pixel_is_that_of_torchvision_on_pil_images(archives, tmp_path):
    write_set(plan(archives), tmp_path)
    train = load_image_set("imagenet32", "train", preparation=RGB8, data_root=tmp_path)
    images = imagenet_images()
    expected = [plainly(image) for wnid in WNIDS for image in images[wnid]]
    assert np.array_equal(train.images.numpy(), np.stack(expected))
    test = load_image_set("imagenet32", "test", preparation=RGB8, data_root=tmp_path)
    assert np.array_equal(test.images.numpy(), np.stack([plainly(i) for i in images["val"]]))


def test_classes_are_numbered_by_sorted_wordnet_id_and_named_uniquely(archives, tmp_path):
    write_set(plan(archives), tmp_path)
    train = load_image_set("imagenet32", "train", preparation=RGB8, data_root=tmp_path)
    assert train.class_names == ("n01440764 tench", "n02012849 crane", "n03126707 crane")
    assert train.labels.tolist() == [0] * 4 + [1] * 2 + [2] * 3


def test_validation_labels_come_from_the_development_kit(archives, tmp_path):
    write_set(plan(archives), tmp_path)
    test = load_image_set("imagenet32", "test", preparation=RGB8, data_root=tmp_path)
    wnid_of = {number: wnid for wnid, (_, number, _) in SYNSETS.items()}
    assert [WNIDS[label] for label in test.labels] == [wnid_of[number] for number in VAL_IDS]


def test_the_arrays_are_mapped_and_not_read(archives, tmp_path):
    write_set(plan(archives), tmp_path)
    image_set = load_image_set("imagenet32", "train", preparation=RGB8, data_root=tmp_path)
    path = tmp_path / "imagenet32/train/images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    with path.open("r+b") as file:  # a change of the file shows, so nothing was copied
        file.write(content)
    assert image_set.images[-1, -1, -1, -1] == content[-1]


@pytest.mark.parametrize("classes", ["0,2", "n01440764, n03126707", "FILE"])
def test_chosen_classes_are_a_set_of_their_own_under_their_own_name(archives, tmp_path, classes):
    if classes == "FILE":
        (tmp_path / "chosen.txt").write_text("n03126707\nn01440764\n")
        classes = str(tmp_path / "chosen.txt")
    chosen = plan(archives, classes=classes)
    folder = write_set(chosen, tmp_path)
    assert folder.name.startswith("imagenet32-2classes-")
    assert chosen.name == plan(archives, classes="n03126707,0").name
    train = load_image_set(f"folder:{folder}", "train", preparation=RGB8)
    assert train.class_names == ("n01440764 tench", "n03126707 crane")
    assert train.labels.tolist() == [0] * 4 + [1] * 3
    test = load_image_set(f"folder:{folder}", "test", preparation=RGB8)
    images = imagenet_images()["val"]
    assert test.labels.tolist() == [0, 1, 1]  # the images 1, 2 and 5
    assert np.array_equal(test.images.numpy(), np.stack([plainly(images[i]) for i in (0, 1, 4)]))


@pytest.mark.parametrize("classes", ["3", "n99999999", "-1", ",", "crane"])
def test_a_class_that_is_not_there_is_refused_with_what_is_allowed(archives, classes):
    with pytest.raises(ConfigError, match=r"indices 0 to 2 or WordNet ids such as n01440764"):
        plan(archives, classes=classes)


def stop_after(images: int):
    def on_progress(stage, done, total):
        if done >= images:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("images", [1, 5, 7])
def test_after_a_stop_only_what_is_not_finished_is_done(archives, tmp_path, monkeypatch, images):
    prepared = []
    genuine = array_writer.prepared_image

    def counted(member, preparation):
        prepared.append(member.name)
        return genuine(member, preparation)

    monkeypatch.setattr(array_writer, "prepared_image", counted)
    with pytest.raises(KeyboardInterrupt):
        write_set(plan(archives), tmp_path, on_progress=stop_after(images))
    assert not (tmp_path / "imagenet32").exists()
    done = json.loads((tmp_path / "imagenet32.partial/progress.json").read_text())["done"]
    finished = [name for name in prepared if name.split("_")[0] in done]
    prepared.clear()
    write_set(plan(archives), tmp_path)
    assert not set(finished) & set(prepared)
    whole = write_set(plan(archives), tmp_path / "at_once")
    for name in ("train/images.npy", "test/images.npy", "train/labels.npy"):
        assert (tmp_path / "imagenet32" / name).read_bytes() == (whole / name).read_bytes()


def test_a_part_that_was_half_written_does_not_count(archives, tmp_path):
    with pytest.raises(KeyboardInterrupt):  # the second class, of two images, ends at six
        write_set(plan(archives), tmp_path, on_progress=stop_after(6))
    state = json.loads((tmp_path / "imagenet32.partial/progress.json").read_text())
    assert state["done"] == ["n01440764"]
    images = np.load(tmp_path / "imagenet32.partial/train/images.npy", mmap_mode="r+")
    images[4:] = 77  # whatever a crash leaves
    images.flush()
    folder = write_set(plan(archives), tmp_path)
    assert damage_of(folder) is None
    expected = plainly(imagenet_images()["n02012849"][0])
    assert np.array_equal(np.load(folder / "train/images.npy")[4], expected)


def test_what_was_begun_with_other_settings_begins_anew(archives, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        write_set(plan(archives, size=4), tmp_path, on_progress=stop_after(6))
    folder = write_set(plan(archives), tmp_path)
    assert "begins anew" in caplog.text
    assert np.load(folder / "train/images.npy").shape == (9, 3, 8, 8)


def test_two_processes_do_not_prepare_the_same_set(archives, tmp_path):
    begun = partial_folder(tmp_path, "imagenet32")
    begun.mkdir()
    with (
        array_writer._held(begun),
        pytest.raises(RunFolderError, match="by another process; wait for it"),
    ):
        write_set(plan(archives), tmp_path)


def test_a_full_disk_is_told_before_any_image_is_prepared(archives, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_writer.os, "posix_fallocate", full)
    monkeypatch.setattr(array_writer, "prepared_image", lambda *a: pytest.fail("began"))
    with pytest.raises(RunFolderError, match="No space left on device"):
        write_set(plan(archives), tmp_path)


def test_a_note_tells_source_checksums_and_date_and_finds_damage(archives, tmp_path):
    folder = write_set(plan(archives), tmp_path)
    note = json.loads((folder / "NOTE.json").read_text())
    assert "ImageNet" in note["source"]
    assert note["archives"]["ILSVRC2012_img_val.tar"] == "MD5 29b22e2961454d5413ddabcf34fc5622"
    assert note["images"] == {"train": 9, "test": 5}
    assert note["prepared"].endswith("+00:00")
    assert damage_of(folder) is None
    (folder / "test/labels.npy").write_bytes(b"nothing")
    assert damage_of(folder) == "test/labels.npy changed since it was prepared"
    (folder / "test/labels.npy").unlink()
    assert "cannot be read" in str(damage_of(folder))


def with_class(folder, wnid, number):
    """Archives whose training images are those of one class: the first few, or no archive."""
    make_imagenet(folder)
    images = dict(enumerate(imagenet_images()["n01440764"][:number]))
    content = b"" if number is None else tar({f"{i}.JPEG": image for i, image in images.items()})
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar({f"{wnid}.tar": content}))
    return folder


def test_a_class_that_lacks_an_image_is_refused(tmp_path):
    with pytest.raises(DataInvalidError, match="n01440764 holds 3 images instead of 4"):
        write_set(plan(with_class(tmp_path, "n01440764", 3)), tmp_path)


def test_a_class_that_is_damaged_or_lacking_is_named(tmp_path):
    with pytest.raises(DataInvalidError, match=r"n01440764.tar is damaged"):
        write_set(plan(with_class(tmp_path / "damaged", "n01440764", None)), tmp_path)
    with pytest.raises(DataInvalidError, match=r"has no n01440764.tar"):
        write_set(plan(with_class(tmp_path / "lacking", "n00000000", 1)), tmp_path)


def test_another_file_in_place_of_the_development_kit_is_refused(tmp_path):
    for content in (b"nothing", b""):
        (tmp_path / "kit.tar.gz").write_bytes(content)
        with pytest.raises(DataInvalidError, match="is not the development kit"):
            read_devkit(tmp_path / "kit.tar.gz")


def test_checksums_are_those_that_torchvision_holds():
    files = {
        "train": published_files.IMAGENET_TRAIN,
        "val": published_files.IMAGENET_VAL,
        "devkit": published_files.IMAGENET_DEVKIT,
    }
    assert {kind: (file.name, file.digest) for kind, file in files.items()} == ARCHIVE_META


def test_nothing_is_removed_behind_a_link_in_the_place_of_a_begun_set(tmp_path, archives):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    chosen = plan(archives)
    partial_folder(tmp_path, chosen.name).symlink_to(tmp_path / "mine")
    with pytest.raises(RunFolderError, match="is a link"):
        write_set(chosen, tmp_path)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_note_that_names_a_file_elsewhere_makes_nobody_read_it(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret").write_text("mine")
    note = {"sha256": {"../secret": file_sha256(tmp_path / "secret")}}
    (tmp_path / "set" / "NOTE.json").write_text(json.dumps(note))
    assert "cannot be read" in (damage_of(tmp_path / "set") or "")
