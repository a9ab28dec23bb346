"""The cache of prepared public sets: written once, rebuilt when damaged, never in the way."""

import os

import pytest
import torch

from privimage.data.cache import cached_image_set, default_cache_dir, stamp
from privimage.data.image_set import ImageSet


class Builder:
    """Counts how often the set is made."""

    def __init__(self):
        self.count = 0

    def __call__(self) -> ImageSet:
        self.count += 1
        images = torch.full((2, 1, 4, 4), self.count, dtype=torch.uint8)
        return ImageSet(images, torch.tensor([0, 1]), ("ä", "b"), "made", 7)


@pytest.fixture
def build():
    return Builder()


def load(build, cache_dir, **depends_on) -> ImageSet:
    return cached_image_set(build, cache_dir=cache_dir, name="made", depends_on=depends_on)


def test_the_second_time_the_same_set_comes_from_the_disk(tmp_path, build):
    first, second = load(build, tmp_path, size=4), load(build, tmp_path, size=4)
    assert build.count == 1
    assert first.fingerprint() == second.fingerprint()
    assert (second.class_names, second.source, second.public_size) == (("ä", "b"), "made", 7)


def test_another_dependency_is_another_entry(tmp_path, build):
    load(build, tmp_path, size=4)
    load(build, tmp_path, size=8)
    assert (build.count, len(list(tmp_path.iterdir()))) == (2, 2)


def test_without_a_folder_nothing_is_kept(tmp_path, build, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(build, None)
    load(build, None)
    assert (build.count, list(tmp_path.iterdir())) == (2, [])


@pytest.mark.parametrize("damage", [lambda content: content[:50], lambda content: b""])
def test_a_damaged_entry_is_made_again_with_a_warning(tmp_path, build, caplog, damage):
    load(build, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    load(build, tmp_path)
    load(build, tmp_path)
    assert build.count == 2
    assert "is damaged" in caplog.text


def test_a_pipe_in_the_place_of_an_entry_is_not_waited_for(tmp_path, build):
    load(build, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.unlink()
    os.mkfifo(entry)
    load(build, tmp_path)
    assert build.count == 2
    assert entry.is_file()


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path, build, caplog):
    (tmp_path / "file").write_text("in the way")
    assert len(load(build, tmp_path / "file" / "cache")) == 2
    assert "not kept for the next run" in caplog.text


def test_a_stamp_changes_with_the_files_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("1")
    before = stamp(tmp_path)
    (tmp_path / "b").write_text("2")
    assert stamp(tmp_path) != before
    assert stamp(tmp_path / "a") == before


def test_the_default_folder_follows_the_desktop_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "privimage"
