"""`private/`: this user's own and closed, and a key that only this run can have made."""

import json
import logging
import os
from pathlib import Path

import pytest

from privimage.errors import RunFolderError
from privimage.run_folder.budget import data_key
from privimage.run_folder.donor import Donor
from privimage.run_folder.private_folder import private_folder, read_private, write_private
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline

PLANTED = bytes(range(32))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def in_use(folder: Path) -> bytes:
    """A key in a folder with a ledger."""
    key = data_key(folder)
    (folder / "ledger.json").write_text("{}")
    return key


def planted(folder: Path, content: bytes = PLANTED) -> Path:
    (folder / "private").mkdir(parents=True, exist_ok=True)
    (folder / "private" / "data_key").write_bytes(content)
    return folder / "private" / "data_key"


def test_a_key_is_random_kept_and_closed(tmp_path):
    key = in_use(tmp_path)
    assert len(key) == 32
    assert data_key(tmp_path) == key
    assert mode(tmp_path / "private") == 0o700
    for name in ("data_key", "README"):
        assert mode(tmp_path / "private" / name) == 0o600
    other = tmp_path / "other"
    assert in_use(other) != key


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)], ids=len)
@pytest.mark.parametrize("used", [False, True])
def test_a_key_of_another_length_is_refused_and_left(tmp_path, content, used):
    if used:
        in_use(tmp_path)
    path = planted(tmp_path, content)
    with pytest.raises(RunFolderError, match=rf"has {len(content)} bytes, and a key 32"):
        data_key(tmp_path)
    assert path.read_bytes() == content


def test_a_key_that_lies_there_before_any_run_is_not_used(tmp_path, caplog):
    path = planted(tmp_path)
    with caplog.at_level(logging.WARNING):
        key = data_key(tmp_path)
    assert key == path.read_bytes() != PLANTED
    assert "a new key takes its place" in caplog.text


def test_a_run_does_not_use_a_planted_key_nor_does_one_whose_ledger_comes_from_a_donor(
    toy_settings, tmp_path
):
    key = planted(tmp_path / "first")
    run_pipeline(load_config(toy_settings), tmp_path / "first")
    assert key.read_bytes() != PLANTED
    key = planted(tmp_path / "second")
    donor = Donor(tmp_path / "first", "finetuned")
    run_pipeline(load_config(toy_settings), tmp_path / "second", donor=donor)
    assert key.read_bytes() != PLANTED


@pytest.mark.parametrize("loose", [0o777, 0o755, 0o750, 0o2770], ids=oct)
def test_a_folder_that_is_open_is_closed_before_anything_is_written_into_it(
    tmp_path, monkeypatch, caplog, loose
):
    (tmp_path / "private").mkdir()
    (tmp_path / "private").chmod(loose)
    seen = []
    real = os.replace
    monkeypatch.setattr(
        os, "replace", lambda *names: (seen.append(mode(tmp_path / "private")), real(*names))[1]
    )
    with caplog.at_level(logging.WARNING):
        data_key(tmp_path)
    assert seen == [0o700, 0o700]
    assert "was open to other users until now" in caplog.text


def test_a_key_that_is_open_is_closed_and_said_to_have_been_open(tmp_path, caplog):
    key = in_use(tmp_path)
    (tmp_path / "private" / "data_key").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert data_key(tmp_path) == key
    assert mode(tmp_path / "private" / "data_key") == 0o600
    assert "data_key was open to other users until now" in caplog.text


def test_what_stays_open_is_refused(tmp_path, monkeypatch):
    in_use(tmp_path)
    (tmp_path / "private").chmod(0o777)
    monkeypatch.setattr(os, "fchmod", lambda *_arguments: None)  # a file system without modes
    with pytest.raises(
        RunFolderError, match=r"stays open to other users \(mode 777\).*keeps owners"
    ):
        data_key(tmp_path)


@pytest.mark.parametrize("name", ["private", "private/data_key"])
def test_what_belongs_to_another_user_is_refused_with_the_user_to_run_as(
    tmp_path, monkeypatch, name
):
    in_use(tmp_path)
    owner, real = os.geteuid(), os.lstat

    def lstat(path, **settings):
        found = real(path, **settings)
        if path != tmp_path / name:
            return found
        return os.stat_result((*found[:4], owner + 1, *found[5:]))

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(
        RunFolderError,
        match=rf"{name} belongs to user {owner + 1}, .* user {owner}; .*--user {owner + 1}",
    ):
        data_key(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("name", ["private", "private/data_key"])
def test_what_was_given_to_another_user_is_refused(tmp_path, name):
    in_use(tmp_path)
    os.chown(tmp_path / name, 4321, 4321)
    with pytest.raises(RunFolderError, match="belongs to user 4321"):
        data_key(tmp_path)


@pytest.mark.parametrize("name", ["private", "private/data_key"])
def test_links_are_refused(tmp_path, name):
    in_use(tmp_path)
    path = tmp_path / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match=rf"{name} is a link"):
        data_key(tmp_path)


def test_a_second_name_and_what_is_no_file_are_refused(tmp_path):
    in_use(tmp_path)
    path = tmp_path / "private" / "data_key"
    os.link(path, tmp_path / "second name")
    with pytest.raises(RunFolderError, match="is a link, or no file"):
        data_key(tmp_path)
    for make in (os.mkfifo, os.mkdir):
        path.unlink()
        make(path)
        with pytest.raises(RunFolderError, match="is a link, or no file"):
            data_key(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "private").write_text("")
    with pytest.raises(RunFolderError, match="cannot make"):
        private_folder(tmp_path)


def test_an_answer_that_is_kept_is_closed_and_one_behind_a_link_is_refused(
    toy_settings, tmp_path, monkeypatch
):
    config = load_config(toy_settings)
    run_pipeline(config, tmp_path)
    kept = tmp_path / "private" / "query_answer.json"
    assert mode(kept) == 0o600
    kept.rename(tmp_path / "elsewhere.json")
    kept.symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "query" / "answer.json").unlink()  # so that the kept one is looked for
    with pytest.raises(RunFolderError, match=r"query_answer.json is a link"):
        run_pipeline(config, tmp_path)
    assert json.loads((tmp_path / "ledger.json").read_text())["events"][0]["charged"] == 1


def test_a_private_file_is_never_open_to_others_not_even_at_first(tmp_path, monkeypatch):
    modes = []
    real = os.replace

    def watched(source, target):
        modes.append((mode(Path(source)), mode(Path(source).parent)))
        real(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_private(tmp_path / "private" / "a", b"secret")
    assert modes == [(0o600, 0o700)]
    assert read_private(tmp_path / "private" / "a") == b"secret"
    assert read_private(tmp_path / "private" / "b") is None
