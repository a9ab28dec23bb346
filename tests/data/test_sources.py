"""Finding a set by its name: fixed splits, folders of one's own, helpful errors, no stray files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as bundled_digits

from privimage.data import sources
from privimage.data.preparation import Preparation
from privimage.data.public.fonts import bundled_fonts
from privimage.data.public.glyphs import render_glyphs
from privimage.data.sources import default_data_root, load_image_set, split_indices
from privimage.errors import ConfigError, DataInvalidError, DataMissingError

GREY8 = Preparation(image_size=8, color="grey")


def load(source: str, split: str = "train", **settings):
    return load_image_set(source, split, preparation=GREY8, **settings)


@pytest.fixture
def own_images(tmp_path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 50 * number).save(tmp_path / "own" / name / "1.png")
    return tmp_path / "own"


def test_the_digits_are_split_once_and_for_all_without_overlap():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)  # every fifth of 1,797, rounded up
    assert torch.equal(train.images, load("digits").images)
    both = torch.cat([train.images, test.images]).flatten(1)
    original = np.rint(bundled_digits(return_X_y=True)[0] * 255 / 16)
    assert sorted(both.tolist()) == sorted(original.astype(int).tolist())


def test_the_split_is_stratified():
    labels = torch.tensor([1, 0] * 50)
    test, train = split_indices(labels, "test"), split_indices(labels, "train")
    assert labels[test].bincount().tolist() == [10, 10]
    assert sorted([*test.tolist(), *train.tolist()]) == list(range(100))


def test_digits_keep_their_labels():
    pixels, labels = bundled_digits(return_X_y=True)
    test = load("digits", "test")
    position = {tuple(np.rint(row * 255 / 16).astype(int)): i for i, row in enumerate(pixels)}
    found = [position[tuple(image.tolist())] for image in test.images.flatten(1)]
    assert test.labels.tolist() == labels[found].tolist()


def test_glyphs_are_prepared_as_asked_and_kept_in_the_cache(tmp_path, monkeypatch):
    fonts = [path for path in bundled_fonts() if path.stem == "DejaVuSans"]
    calls = []

    def render(size):
        calls.append(size)
        return render_glyphs(size, variations=5, fonts=fonts)

    monkeypatch.setattr(sources, "render_glyphs", render)
    color = Preparation(image_size=8, color="rgb")
    train = load_image_set("glyphs", "train", preparation=color, cache=True, cache_dir=tmp_path)
    test = load("glyphs", "test", cache=True, cache_dir=tmp_path)
    assert calls == [8]
    assert (train.num_channels, test.num_channels) == (3, 1)
    assert len(train) == 4 * len(test)
    assert train.public_size == len(train)
    assert test.labels.bincount().unique().tolist() == [1]


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_own_images_are_read_from_a_folder_and_an_npz_file(own_images, kind):
    path = own_images
    if kind == "npz":
        path = own_images / "set.npz"
        images = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 50, np.uint8)])
        np.savez(path, images=images, labels=np.arange(2), class_names=np.array(["cat", "dog"]))
    image_set = load(f"folder:{path}")
    assert image_set.images[:, 0, 0, 0].tolist() == [0, 50]
    assert image_set.class_names == ("cat", "dog")
    assert image_set.source == f"folder:{path}"
    with pytest.raises(DataMissingError, match="no test images"):
        load(f"folder:{path}", "test")


def test_own_images_leave_no_trace_on_the_disk_unless_a_cache_is_asked_for(
    own_images, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load(f"folder:{own_images}")
    load(f"folder:{own_images}", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    load(f"folder:{own_images}", cache=True)
    assert len(list((tmp_path / "cache" / "privimage").iterdir())) == 1


def test_the_cache_notices_a_changed_image(own_images, tmp_path):
    settings = {"cache": True, "cache_dir": tmp_path / "cache"}
    load(f"folder:{own_images}", **settings)
    Image.new("L", (8, 8), 99).save(own_images / "cat" / "2.png")
    assert len(load(f"folder:{own_images}", **settings)) == 3


def test_a_missing_folder_is_told_by_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataMissingError, match=f"there is no {tmp_path / 'nowhere'}"):
        load("folder:nowhere")


def test_a_file_that_is_no_image_set_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataInvalidError, match="neither a folder nor a readable zip"):
        load(f"folder:{tmp_path / 'notes.txt'}")


def test_an_unknown_name_lists_the_known_ones_and_guesses():
    with pytest.raises(ConfigError, match=r"did you mean digits.*fashion_mnist.*folder:PATH"):
        load("digit")


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="'validation'; choose train or test"):
        load("digits", "validation")


def test_a_published_set_that_is_missing_names_the_folder_looked_in(tmp_path):
    with pytest.raises(DataMissingError, match=f"{tmp_path}/cifar100-train.zip"):
        load("cifar100", data_root=tmp_path)


def test_a_download_happens_only_on_request(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sources.published, "download", lambda name, data_root: asked.append(name))
    for download in (False, True):
        with pytest.raises(DataMissingError):
            load("cifar10", data_root=tmp_path, download=download)
    assert asked == ["cifar10"]


def test_the_data_folder_is_the_environment_variable_or_the_desktop_standard(monkeypatch):
    monkeypatch.setenv("PRIVIMAGE_DATA", "/data")
    assert default_data_root() == Path("/data")
    monkeypatch.delenv("PRIVIMAGE_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", "/share")
    assert default_data_root() == Path("/share/privimage")
