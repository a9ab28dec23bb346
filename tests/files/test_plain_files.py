"""Names that lead out, links and pipes: refused wherever a stranger may have filled a folder."""

import os
import socket
from pathlib import Path

import pytest

from privimage.errors import DataInvalidError, RunFolderError
from privimage.files.plain_files import inside, open_plain, read_bounded, refuse_links
from privimage.stages.pipeline import locked


@pytest.mark.parametrize(
    "name", ["", ".", "/etc/passwd", "../a", "a/../../b", "..", "a\\b", "a\0b", "//a"]
)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(DataInvalidError, match="lies outside of"):
        inside(tmp_path, name)


def test_a_name_inside_is_a_path_be_there_a_file_or_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    for name in ("a/b", "a/c", "new/d"):
        assert inside(tmp_path, name) == tmp_path / name


def test_a_folder_that_was_named_by_a_link_is_used(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    refuse_links(tmp_path / "link")
    assert inside(tmp_path / "link", "a") == tmp_path / "link" / "a"


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder"])
def test_what_is_no_file_is_refused_in_its_place(tmp_path, kind):
    place = tmp_path / "a"
    if kind == "link":
        place.symlink_to(tmp_path / "gone")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(place))
    with pytest.raises(DataInvalidError, match=f"a in .* is a {kind}"):
        inside(tmp_path, "a")
    if kind != "folder":
        with pytest.raises(RunFolderError, match=f"is a {kind}, and a run folder"):
            refuse_links(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "query").write_text("x")
    with pytest.raises(DataInvalidError, match=r"query in .* is a file"):
        inside(tmp_path, "query/answer.json")


def test_a_pipe_is_not_waited_for_and_a_device_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataInvalidError, match="is a pipe"):
        open_plain(tmp_path / "pipe")
    with pytest.raises(DataInvalidError, match="is a device"):
        read_bounded(Path("/dev/zero"))


def test_a_document_of_more_than_its_bound_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes(9))
    assert read_bounded(tmp_path / "a", max_bytes=9) == bytes(9)
    with pytest.raises(DataInvalidError, match="longer than 8 bytes"):
        read_bounded(tmp_path / "a", max_bytes=8)


def test_a_planted_lock_empties_no_other_file(tmp_path):
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(RunFolderError, match="is a link"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "mine").read_text() == "kept"
