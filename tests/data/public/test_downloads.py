"""Downloads are continued, checked before they get their name, and never made when forbidden."""

import hashlib
import io
import os
import tarfile
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest
from pytorch_fid.inception import FID_WEIGHTS_URL
from torchvision import datasets

from privimage.data.public import downloads
from privimage.data.public.downloads import download_file, install
from privimage.data.public.pinned_files import DOWNLOADS, PublishedFile, check_file
from privimage.errors import DataInvalidError, DataMissingError, RunFolderError

CONTENT = bytes(range(256)) * 16
URL = "https://first.example/set.bin"
OTHER_URL = "https://second.example/set.bin"
FILE = PublishedFile("set.bin", hashlib.md5(CONTENT).hexdigest(), urls=(URL,))


class Server:
    """Stands in for `urlopen`: what it holds, how many bytes pass before a line breaks."""

    def __init__(self, content=CONTENT, *, breaks_after=None, knows_ranges=True):
        self.content, self.breaks_after, self.knows_ranges = content, breaks_after, knows_ranges
        self.asked = []

    def __call__(self, request, timeout):
        start = request.headers.get("Range", "bytes=0-")[len("bytes=") : -1]
        start = int(start) if self.knows_ranges else 0
        self.asked.append((request.full_url, start))
        if start >= len(self.content):
            raise HTTPError(request.full_url, 416, "nothing left", Message(), io.BytesIO())
        response = io.BytesIO(self.content[start:][: self.breaks_after])
        response.status = 206 if start else 200  # pyright: ignore
        response.headers = {"Content-Length": len(self.content) - start}  # pyright: ignore
        return response


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.delenv("PRIVIMAGE_OFFLINE", raising=False)

    def use(server):
        monkeypatch.setattr(downloads, "urlopen", server)
        return server

    return use


def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path, serve):
    target = tmp_path / "set.bin"
    serve(Server(breaks_after=1000))
    with pytest.raises(DataMissingError, match=r"ended after 1,000 of 4,096 bytes.*goes on where"):
        download_file(FILE, target)
    assert not target.exists()
    server = serve(Server())
    download_file(FILE, target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [(URL, 1000)]
    assert list(tmp_path.iterdir()) == [target]


def test_a_server_that_cannot_continue_sends_it_all_again(tmp_path, serve):
    (tmp_path / "set.bin.part").write_bytes(b"old")
    serve(Server(knows_ranges=False))
    download_file(FILE, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_a_whole_download_that_was_not_yet_named_is_not_fetched_again(tmp_path, serve):
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    serve(Server())
    download_file(FILE, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_another_file_never_gets_the_name_and_the_next_address_is_tried(tmp_path, serve):
    file = PublishedFile("set.bin", FILE.digest, urls=(URL, OTHER_URL))
    good, bad = Server(), Server(b"<html>moved</html>")
    serve(lambda request, timeout: (bad if request.full_url == URL else good)(request, timeout))
    download_file(file, tmp_path / "set.bin")
    assert good.asked == [(OTHER_URL, 0)]  # from the start: what the first sent is gone
    serve(bad)
    with pytest.raises(DataMissingError, match=r"first.example: sent another file; second"):
        download_file(file, tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["set.bin"]


def test_a_network_that_fails_is_one_line_with_the_remedy(tmp_path, serve):
    def unreachable(request, timeout):
        raise URLError(OSError(-2, "Name or service\nnot known"))

    serve(unreachable)
    with pytest.raises(DataMissingError) as caught:
        download_file(FILE, tmp_path / "set.bin")
    assert "first.example: [Errno -2] Name or service" in str(caught.value)
    assert f"MD5 {FILE.digest}" in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("value", ["1", "yes"])
def test_offline_means_that_nobody_is_asked(tmp_path, serve, monkeypatch, value):
    server = serve(Server())
    monkeypatch.setenv("PRIVIMAGE_OFFLINE", value)
    with pytest.raises(DataMissingError, match=r"PRIVIMAGE_OFFLINE forbids downloads; get set.bin"):
        download_file(FILE, tmp_path / "set.bin")
    assert server.asked == []


def cifar_archive() -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"meta"))
    return buffer.getvalue()


@pytest.fixture
def small_sets(monkeypatch):
    """CIFAR-10 as an archive of one file, MNIST as one file."""
    archive = cifar_archive()
    digest = hashlib.md5(archive).hexdigest()
    cifar = PublishedFile("cifar-10-python.tar.gz", digest, urls=(URL,))
    mnist = PublishedFile("set.bin", FILE.digest, urls=(URL,), folder="MNIST/raw")
    monkeypatch.setitem(DOWNLOADS, "cifar10", (cifar,))
    monkeypatch.setitem(DOWNLOADS, "mnist", (mnist,))
    return archive


def test_an_archive_is_unpacked_whole_and_not_kept(tmp_path, serve, small_sets):
    serve(Server(small_sets))
    install("cifar10", data_root=tmp_path / "data")
    assert (tmp_path / "data/cifar-10-batches-py/batches.meta").read_bytes() == b"meta"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]


def test_files_that_a_person_fetched_are_checked_and_installed(tmp_path, serve, small_sets):
    server = serve(Server())
    given = tmp_path / "given"
    given.mkdir()
    (given / "cifar-10-python.tar.gz").write_bytes(small_sets)
    (given / "set.bin").write_bytes(CONTENT)
    for name in ("cifar10", "mnist"):
        install(name, data_root=tmp_path / "data", archives=given)
    assert (tmp_path / "data/MNIST/raw/set.bin").read_bytes() == CONTENT
    assert (tmp_path / "data/cifar-10-batches-py/batches.meta").exists()
    assert len(list(given.iterdir())) == 2
    (given / "set.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataInvalidError, match="is not the published file, or is damaged"):
        install("mnist", data_root=tmp_path / "data", archives=given)
    (given / "set.bin").unlink()
    with pytest.raises(DataMissingError, match=r"put set.bin there \(MD5 "):
        install("mnist", data_root=tmp_path / "data", archives=given)
    assert server.asked == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, small_sets, monkeypatch):
    def refuse(file, target, on_progress):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(downloads, "download_file", refuse)
    with pytest.raises(
        RunFolderError, match=r"set.bin \(Permission denied\); point PRIVIMAGE_DATA"
    ):
        install("mnist", data_root=tmp_path)


def test_a_file_that_is_cut_off_is_told_without_reading_it(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(CONTENT[:-1])
    file = PublishedFile("set.bin", FILE.digest, num_bytes=len(CONTENT))
    with pytest.raises(DataInvalidError, match=r"is cut off: 4,095 bytes of 4,096; continue"):
        check_file(file, path)
    path.write_bytes(CONTENT + b"more")
    with pytest.raises(DataInvalidError, match="is not the published file: 4,100 bytes of 4,096"):
        check_file(file, path)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(DataInvalidError, match=f"published is {FILE.digest}"):
        check_file(file, path)


def test_addresses_and_checksums_are_those_of_torchvision_and_pytorch_fid():
    for name, cls in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        (file,) = DOWNLOADS[name]
        assert (file.name, file.digest) == (cls.filename, cls.tgz_md5)
        assert file.urls == (cls.url,)
    for name, cls in (("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)):
        assert [(file.name, file.digest) for file in DOWNLOADS[name]] == cls.resources
        for file in DOWNLOADS[name]:
            assert file.urls == tuple(mirror + file.name for mirror in cls.mirrors)
            assert file.folder == f"{cls.__name__}/raw"
    assert DOWNLOADS["inception"][0].urls == (FID_WEIGHTS_URL,)


def test_a_planted_link_is_not_written_through(tmp_path, serve):
    (tmp_path / "mine").write_bytes(b"kept")
    (tmp_path / "set.bin.part").symlink_to(tmp_path / "mine")
    serve(Server())
    download_file(FILE, tmp_path / "set.bin")
    assert (tmp_path / "mine").read_bytes() == b"kept"
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_a_copy_from_a_folder_is_not_written_through_a_planted_link(tmp_path, monkeypatch):
    monkeypatch.setitem(DOWNLOADS, "set", (FILE,))
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "set.bin").write_bytes(CONTENT)
    (tmp_path / "root").mkdir()
    (tmp_path / "mine").write_bytes(b"kept")
    for name in ("set.bin", "set.bin.copy"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "mine")
    install("set", data_root=tmp_path / "root", archives=tmp_path / "given")
    assert (tmp_path / "mine").read_bytes() == b"kept"
    assert not (tmp_path / "root" / "set.bin").is_symlink()


def test_a_pipe_in_the_place_of_an_archive_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "set.bin")
    with pytest.raises(DataInvalidError, match="is a pipe"):
        check_file(FILE, tmp_path / "set.bin")
