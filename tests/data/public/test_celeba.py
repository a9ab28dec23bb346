"""CelebA's official files become arrays, with the published split and two classes if asked for."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CelebA

from privimage.data.preparation import Preparation
from privimage.data.public import celeba
from privimage.data.public import pinned_files as published_files
from privimage.data.public.array_writer import write_set
from privimage.data.public.celeba import plan_celeba, read_attribute, read_partition
from privimage.data.sources import load_image_set
from privimage.errors import DataInvalidError
from tests.data.made_archives import celeba_images, make_celeba


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return make_celeba(tmp_path_factory.mktemp("archives"))


def load(root, split, name="celeba32"):
    return load_image_set(name, split, preparation=Preparation(32, "rgb"), data_root=root)


def plainly(content: bytes) -> np.ndarray:
    steps = [transforms.CenterCrop(178), transforms.Resize((32, 32))]
    return np.asarray(transforms.Compose(steps)(Image.open(io.BytesIO(content)))).transpose(2, 0, 1)


@pytest.mark.parametrize("part", [1, 2, 20_000])
def test_every_pixel_is_that_of_torchvision_on_pil_images(archives, tmp_path, monkeypatch, part):
    monkeypatch.setattr(celeba, "PART", part)
    write_set(plan_celeba("celeba32", 32, archives=archives, by_male=False), tmp_path)
    images = celeba_images()
    for split, numbers in (("train", (1, 2, 5)), ("test", (4, 6))):
        expected = np.stack([plainly(images[f"{number:06d}.jpg"]) for number in numbers])
        assert np.array_equal(load(tmp_path, split).images.numpy(), expected)
    assert load(tmp_path, "train").class_names == ("all",)


def test_the_variant_with_labels_takes_them_from_the_attribute_male(archives, tmp_path):
    write_set(plan_celeba("celeba32_male", 32, archives=archives, by_male=True), tmp_path)
    train, test = (load(tmp_path, split, "celeba32_male") for split in ("train", "test"))
    assert train.class_names == ("not male", "male")
    assert train.labels.tolist() == [0, 1, 0]
    assert test.labels.tolist() == [1, 0]
    note = json.loads((tmp_path / "celeba32_male/NOTE.json").read_text())
    assert note["labels"] == "attribute Male"
    assert set(note["archives"]) == {
        "img_align_celeba.zip",
        "list_eval_partition.txt",
        "list_attr_celeba.txt",
    }


def test_an_image_that_the_zip_file_lacks_is_told(archives, tmp_path):
    short = make_celeba(tmp_path / "short")
    with zipfile.ZipFile(short / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/000001.jpg", celeba_images()["000001.jpg"])
    with pytest.raises(DataInvalidError, match="train 0 holds 1 images instead of 3"):
        write_set(plan_celeba("celeba32", 32, archives=short, by_male=False), tmp_path)


def test_a_damaged_image_is_named(archives, tmp_path):
    broken = make_celeba(tmp_path / "broken")
    with zipfile.ZipFile(broken / "img_align_celeba.zip", "w") as archive:
        for name, content in celeba_images().items():
            archive.writestr(f"img_align_celeba/{name}", content[:300])
    with pytest.raises(DataInvalidError, match=r"img_align_celeba/000001.jpg is not a readable"):
        write_set(plan_celeba("celeba32", 32, archives=broken, by_male=False), tmp_path)


def test_a_list_of_another_form_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("nothing of the kind")
    with pytest.raises(DataInvalidError, match="is not CelebA's partition"):
        read_partition(tmp_path / "list.txt")
    with pytest.raises(DataInvalidError, match="is not CelebA's list of attributes"):
        read_attribute(tmp_path / "list.txt", "Male")


def test_checksums_are_those_that_torchvision_holds():
    held = {name: md5 for _, md5, name in CelebA.file_list}
    for file in (
        published_files.CELEBA_IMAGES,
        published_files.CELEBA_SPLITS,
        published_files.CELEBA_ATTRIBUTES,
    ):
        assert file.digest == held[file.name]
