"""The readers of published sets on files that are not what was published: only UserErrors.

Most of these files are read after their checksum alone; these tests are of the second lock.
"""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact.assets.fetch import prepare
from artifact.assets.inventory import ASSETS
from privimage.data.preparation import Preparation
from privimage.data.public import downloads, imagenet
from privimage.data.public.celeba import plan_celeba
from privimage.data.public.cifar import CifarFiles, read_cifar, read_pickle
from privimage.data.public.idx import read_idx
from privimage.data.public.imagenet import GROUND_TRUTH, META, plan_imagenet, read_devkit
from privimage.data.public.pinned_files import (
    CELEBA_ATTRIBUTES,
    CELEBA_IMAGES,
    CELEBA_SPLITS,
    IMAGENET_DEVKIT,
    IMAGENET_TRAIN,
    IMAGENET_VAL,
    PublishedFile,
)
from privimage.data.sources import load_image_set
from privimage.errors import DataInvalidError
from tests.data.made_archives import make_celeba, make_imagenet, tar
from tests.fuzz.damage import GIB, attempt, damaged, examples, memory_bounded
from tests.fuzz.test_archives import LeavesTrace

RGB8 = Preparation(8, "rgb")
IMAGES = b"\0\0\x08\x03" + struct.pack(">3I", 2, 8, 8) + bytes(range(128))
LABELS = b"\0\0\x08\x01" + struct.pack(">I", 2) + b"\x03\x01"


@examples(250)
@given(st.booleans(), st.booleans(), st.data())
def test_damaged_idx_files_are_a_set_or_refused(tmp_path, zipped, of_labels, data):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in {"images-idx3": IMAGES, "labels-idx1": LABELS}.items():
        if of_labels == ("labels" in name):
            content = data.draw(damaged(content))
        content = gzip.compress(content) if zipped else content
        (folder / f"train-{name}-ubyte{'.gz' * zipped}").write_bytes(content)
    with memory_bounded(GIB // 2):
        found, refusal = attempt(
            lambda: load_image_set("mnist", "train", preparation=RGB8, data_root=tmp_path)
        )
    if refusal is not None:
        assert "ubyte" in refusal or "image set mnist" in refusal
    else:
        assert len(found) > 0


@examples(60)
@given(st.data())
def test_a_damaged_gzip_file_is_named(tmp_path, data):
    path = tmp_path / "images.gz"
    path.write_bytes(data.draw(damaged(gzip.compress(IMAGES))))
    found, refusal = attempt(lambda: read_idx(path, num_dimensions=3), DataInvalidError)
    assert found is not None or str(path) in (refusal or "")


def test_an_idx_file_that_claims_gigabytes_is_refused_before_they_are_read(tmp_path):
    path = tmp_path / "images.gz"
    header = b"\0\0\x08\x03" + struct.pack(">3I", 60_000, 200, 200)
    path.write_bytes(gzip.compress(header + bytes(2**26)))
    with memory_bounded(2**26), pytest.raises(DataInvalidError, match="does not hold"):
        read_idx(path, num_dimensions=3)


def cifar_files(folder: Path, batch: bytes) -> CifarFiles:
    """The files of a made-up set whose published checksum is that of whatever is there."""
    meta = pickle.dumps({"label_names": ["cat", "dog"]}, protocol=3)
    contents = {"batch": batch, "meta": meta}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    return CifarFiles(
        folder=".",
        train={"batch": md5["batch"]},
        test={},
        meta={"meta": md5["meta"]},
        labels_key="labels",
        names_key="label_names",
    )


@examples(400)
@given(st.sampled_from([2, 3, 4]), st.data())
def test_a_damaged_cifar_pickle_is_a_set_or_refused_even_under_the_right_checksum(
    tmp_path, protocol, data
):
    pixels = np.zeros((2, 3072), np.uint8)
    batch = pickle.dumps({"data": pixels, "labels": [1, 0]}, protocol=protocol)
    head, tail = batch[:150], batch[-150:]  # what is between are pixels
    batch = data.draw(damaged(head)) + batch[150:-150] + data.draw(damaged(tail))
    files = cifar_files(tmp_path, batch)
    with memory_bounded(GIB // 2):
        found, refusal = attempt(
            lambda: read_cifar(tmp_path, "train", files=files, source="it"), DataInvalidError
        )
    assert refusal or len(found) > 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_cifar_pickle_never_runs_code(tmp_path, protocol):
    trace = tmp_path / "trace"
    hostile = pickle.dumps({"data": LeavesTrace(trace)}, protocol=protocol)
    files = cifar_files(tmp_path, hostile)
    with pytest.raises(DataInvalidError, match="do not trust this file"):
        read_cifar(tmp_path, "train", files=files, source="it")
    with pytest.raises(DataInvalidError, match="is not the published file"):
        read_pickle(tmp_path / "batch", expected_md5="0" * 32)
    assert not trace.exists()
    pickle.loads(hostile)  # the trap works
    assert trace.exists()


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    """The made-up archives by name: packed once, for their packing holds the time of day."""
    folder = make_celeba(make_imagenet(tmp_path_factory.mktemp("originals")))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepare_all(plan) -> None:
    """Read every image of a plan, as the writer of prepared sets does."""
    for split in plan.splits.values():
        for part in split.parts:
            with part.open() as members:
                for member in members:
                    member.read()


@examples(250)
@given(st.sampled_from([CELEBA_IMAGES, CELEBA_SPLITS, CELEBA_ATTRIBUTES]), st.data())
def test_damaged_files_of_celeba_are_read_or_refused(tmp_path, originals, file, data):
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / file.name).write_bytes(data.draw(damaged(originals[file.name])))

    def read() -> set[int]:
        plan = plan_celeba("celeba32_male", 32, archives=tmp_path, by_male=True)
        prepare_all(plan)
        return {int(label) for split in plan.splits.values() for label in split.labels}

    with memory_bounded():
        labels, refusal = attempt(read, DataInvalidError)
    assert refusal or labels <= {0, 1}


@pytest.mark.parametrize("text", ["x" * 200_000, "a b c\n", '"' + "x" * 200_000])
def test_a_list_of_celeba_that_is_no_list_is_refused(tmp_path, text):
    folder = make_celeba(tmp_path)
    (folder / CELEBA_SPLITS.name).write_text(text)
    with pytest.raises(DataInvalidError, match="is not CelebA's partition"):
        plan_celeba("celeba32", 32, archives=folder, by_male=False)


@examples(200)
@given(st.sampled_from([IMAGENET_TRAIN, IMAGENET_VAL]), st.data())
def test_damaged_archives_of_imagenet_are_read_or_refused(tmp_path, originals, file, data):
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / file.name).write_bytes(data.draw(damaged(originals[file.name])))
    imagenet._index.cache_clear()

    def read() -> None:
        prepare_all(plan_imagenet("imagenet32", 32, archives=tmp_path, classes=None))

    with memory_bounded():
        _, refusal = attempt(read, DataInvalidError)
    assert refusal is None or str(tmp_path) in refusal


@examples(100)
@given(
    st.sampled_from([META, GROUND_TRUTH]), st.sampled_from(["cut", "text", "lacking"]), st.data()
)
def test_a_damaged_list_of_imagenets_labels_is_read_or_refused(
    tmp_path, originals, name, kind, data
):
    with tarfile.open(fileobj=io.BytesIO(originals[IMAGENET_DEVKIT.name])) as kit:
        contents = {m.name: kit.extractfile(m).read() for m in kit.getmembers()}  # type: ignore[union-attr]
    if kind == "lacking":
        del contents[name]
    elif kind == "cut":
        contents[name] = contents[name][: data.draw(st.integers(0, len(contents[name]) - 1))]
    else:
        contents[GROUND_TRUTH] = data.draw(damaged(contents[GROUND_TRUTH]))
    (tmp_path / "kit.tar").write_bytes(tar(contents))
    found, refusal = attempt(lambda: read_devkit(tmp_path / "kit.tar"), DataInvalidError)
    assert "is not the development kit" in refusal if refusal else found.synsets


def test_no_list_of_classes_is_parsed_before_its_checksum_was_found_right(tmp_path, monkeypatch):
    # scipy's parser of it can crash the process on a damaged file: only the genuine one may come
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(DataInvalidError, match="is not the published file"):
        prepare(ASSETS["imagenet32"], make_imagenet(tmp_path), tmp_path / "data", classes=None)


def install(archive: bytes, root: Path, monkeypatch) -> Path:
    """Install a made-up CIFAR-10 from an archive of whatever checksum."""
    (root / "archives").mkdir(exist_ok=True)
    (root / "archives" / "it.tar").write_bytes(archive)
    file = PublishedFile("it.tar", hashlib.md5(archive).hexdigest())
    monkeypatch.setitem(downloads.DOWNLOADS, "cifar10", (file,))
    target = root / "data"
    target.mkdir(exist_ok=True)
    downloads.install("cifar10", data_root=target, archives=root / "archives")
    return target / "cifar-10-batches-py"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_of_an_archive_only_plain_files_of_its_folder_are_unpacked(tmp_path, monkeypatch):
    folder = "cifar-10-batches-py"
    members = [
        member(f"{folder}/batch"),
        member(f"{folder}/deep/file"),
        member(f"{folder}/../outside"),
        member("../outside"),
        member(str(tmp_path / "outside")),
        member(f"{folder}/link", tarfile.SYMTYPE, "/etc/passwd"),
        member(f"{folder}/hard", tarfile.LNKTYPE, "../outside"),
        member(f"{folder}/fifo", tarfile.FIFOTYPE),
        member(f"{folder}/device", tarfile.CHRTYPE),
    ]
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        for info in members:
            archive.addfile(info)
    unpacked = install(buffer.getvalue(), tmp_path, monkeypatch)
    assert [path.name for path in unpacked.iterdir()] == ["batch"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "data"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [folder]


@examples(100)
@given(st.data())
def test_a_damaged_archive_is_unpacked_whole_or_not_at_all(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("root")
    content = tar({"cifar-10-batches-py/batch": b"x" * 600, "cifar-10-batches-py/meta": b"y"})
    archive = data.draw(damaged(content))
    with pytest.MonkeyPatch.context() as monkeypatch, memory_bounded():
        _, refusal = attempt(lambda: install(archive, root, monkeypatch), DataInvalidError)
    if refusal is not None:
        assert "it.tar" in refusal
        assert list((root / "data").iterdir()) == []
    assert sorted(path.name for path in root.iterdir()) == ["archives", "data"]
