"""`artifact fetch`, typed as a reviewer would: prepared sets, damage, no room, no network."""

import dataclasses
import hashlib
import os
import sys

import numpy as np
import pytest

from artifact import cli
from artifact.assets import fetch
from artifact.assets.inventory import ASSETS
from artifact.exit_codes import ExitCode
from privimage.data.preparation import Preparation
from privimage.data.public import downloads
from privimage.data.public.array_writer import partial_folder
from privimage.data.sources import load_image_set
from tests.data.made_archives import make_celeba, make_imagenet


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PRIVIMAGE_OFFLINE", raising=False)
    monkeypatch.setattr(downloads, "urlopen", lambda *a, **k: pytest.fail("went online"))
    return tmp_path / "data"


@pytest.fixture
def artifact(root, monkeypatch, capsys):
    """Types `artifact fetch ...`; returns (exit code, stdout, the last line of stderr)."""

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["artifact", "fetch", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, (captured.err.splitlines() or [""])[-1]

    return typed


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Small archives in the official layouts, whose checksums stand in for the published ones."""
    folder = make_celeba(make_imagenet(tmp_path / "archives"))
    for name, asset in ASSETS.items():
        if asset.steps:
            files = [with_checksum_of(file, folder / file.name) for file in asset.files]
            monkeypatch.setitem(ASSETS, name, dataclasses.replace(asset, files=tuple(files)))
    return folder


def with_checksum_of(file, path):
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    size = file.num_bytes and path.stat().st_size
    return dataclasses.replace(file, digest=digest, num_bytes=size)


@pytest.mark.parametrize(
    ("name", "numbers"), [("imagenet32", (9, 5)), ("imagenet64", (9, 5)), ("celeba32_male", (3, 2))]
)
def test_official_archives_become_a_set_that_a_run_can_load(
    artifact, archives, root, name, numbers
):
    code, out, _ = artifact(name, "--from", archives)
    assert code == 0
    assert f"{name}: {numbers[0]} train, {numbers[1]} test images" in out
    size = 64 if "64" in name else 32
    for split, number in zip(("train", "test"), numbers, strict=True):
        loaded = load_image_set(name, split, preparation=Preparation(size, "rgb"))
        assert loaded.images.shape == (number, 3, size, size)
    code, out, _ = artifact(name, "--from", archives)
    assert (code, "there already" in out) == (0, True)
    assert artifact("--verify-only", name)[:2] == (
        0,
        f"{name:14} present  {root}/{name}/train and {root}/{name}/test\n",
    )


def test_chosen_classes_do_not_pass_for_the_whole_set(artifact, archives, root):
    code, out, _ = artifact("imagenet32", "--from", archives, "--classes", "0,n03126707")
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    assert code == 0
    assert f"name it folder:{folder}" in out
    assert artifact("--verify-only", "imagenet32")[0] == ExitCode.DATA_MISSING
    code, out, _ = artifact("imagenet32", "--from", archives, "--classes", "n01440764,2")
    assert f"{folder.name}: there already" in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is cut off"),
        (lambda content: content[:-1] + b"\1", "is not the published file, or is damaged"),
    ],
)
def test_a_truncated_or_altered_archive_is_refused(artifact, archives, root, damage, message):
    path = archives / "ILSVRC2012_img_train.tar"
    path.write_bytes(damage(path.read_bytes()))
    code, out, error = artifact("imagenet32", "--from", archives)
    assert (code, out) == (ExitCode.DATA_MISSING, "")
    assert str(path) in error
    assert message in error
    assert not (root / "imagenet32").exists()


def test_an_archive_that_is_not_there_is_named_with_its_checksum(artifact, archives):
    (archives / "list_eval_partition.txt").unlink()
    code, _, error = artifact("celeba32", "--from", archives)
    assert code == ExitCode.DATA_MISSING
    assert f"{archives}/list_eval_partition.txt cannot be read" in error
    assert "MD5" in error


def test_an_archive_found_right_is_not_read_again_after_an_interruption(
    artifact, archives, monkeypatch
):
    checked = []
    genuine = fetch.check_file

    def counted(file, path, **options):
        checked.append(file.name)
        genuine(file, path, **options)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "check_file", counted)
    with monkeypatch.context() as context:
        context.setattr(fetch, "write_set", interrupt)
        code, _, error = artifact("imagenet32", "--from", archives)
    assert (code, error) == (130, "interrupted; the same command continues")
    checked.clear()
    assert artifact("imagenet32", "--from", archives)[0] == 0
    assert checked == ["ILSVRC2012_devkit_t12.tar.gz"]  # small: checked every time
    os.utime(archives / "ILSVRC2012_img_val.tar", (1, 1))
    artifact("imagenet64", "--from", archives)
    assert checked[1:] == ["ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar"]


def test_too_little_room_is_told_before_any_large_file_is_read(artifact, archives, monkeypatch):
    monkeypatch.setattr(fetch, "free_disk_bytes", lambda path: 1000)
    monkeypatch.setattr(fetch, "check_once", lambda *a, **k: pytest.fail("began"))
    code, _, error = artifact("imagenet64", "--from", archives)
    assert code == ExitCode.ENVIRONMENT_UNFIT
    assert "GB free, and 0.000172 GB are needed; free some space" in error  # 14 * (3 * 64**2 + 8)


def test_room_that_was_taken_by_an_interrupted_attempt_is_not_asked_for_twice(tmp_path):
    begun = partial_folder(tmp_path, "imagenet32")
    begun.mkdir()
    (begun / "images.npy").write_bytes(b"x" * 2**20)
    free = fetch.free_disk_bytes(tmp_path)
    fetch.require_room(tmp_path, free + 2**19, begun=begun)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_folder_that_is_read_only_is_told_at_once(artifact, archives, root):
    root.mkdir(mode=0o500)
    code, _, error = artifact("imagenet32", "--from", archives)
    assert code == ExitCode.ENVIRONMENT_UNFIT
    assert f"{root} cannot be written (Permission denied); point PRIVIMAGE_DATA" in error


def test_no_archive_is_read_for_a_folder_that_cannot_be_written(artifact, archives, monkeypatch):
    monkeypatch.setattr(fetch, "why_not_writable", lambda path: "Read-only file system")
    monkeypatch.setattr(fetch, "check_once", lambda *a, **k: pytest.fail("began"))
    code, _, error = artifact("celeba32", "--from", archives)
    assert code == ExitCode.ENVIRONMENT_UNFIT
    assert "cannot be written (Read-only file system); point PRIVIMAGE_DATA" in error


def test_a_set_that_needs_an_account_tells_every_step(artifact):
    code, out, error = artifact("imagenet64")
    assert code == ExitCode.DATA_MISSING
    assert "https://image-net.org" in out
    assert "1d675b47d978889d74fa0da5fadfb00e, 147,897,477,120 bytes" in out
    assert "imagenet64 needs its official archives" in error


def test_offline_gives_the_step_by_hand_and_asks_nobody(artifact, monkeypatch):
    for options in (["--offline"], []):
        code, out, error = artifact("cifar10", *options)
        assert code == ExitCode.DATA_MISSING
        assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in out
        assert "downloads are forbidden" in error
        assert error.endswith("artifact fetch cifar10 --from FOLDER")
        monkeypatch.setenv("PRIVIMAGE_OFFLINE", "1")


def test_a_network_that_fails_exits_with_four_and_one_line(artifact, monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(downloads, "urlopen", unreachable)
    code, out, error = artifact("inception")
    assert (code, out) == (ExitCode.DATA_MISSING, "")
    assert "error: pt_inception-2015-12-05-6726825d.pth could not be downloaded" in error
    assert "no route to host" in error


def test_without_names_everything_that_can_be_downloaded_is(artifact, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "install", lambda name, **options: asked.append(name))
    monkeypatch.setattr(fetch, "places_found", lambda asset, root: [])
    assert artifact()[0] == 0
    assert asked == ["cifar10", "cifar100", "fashion_mnist", "mnist", "inception"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar11"], "there is no asset 'cifar11'; choose cifar10"),
        (["--verify-only", "cifar11"], "there is no asset 'cifar11'"),
        (["imagenet32", "--from", "nowhere"], "--from nowhere is not a folder"),
        (["celeba32", "--classes", "1", "--from", "."], "--classes goes with imagenet32 or"),
        (["imagenet32", "--classes", "1"], "--classes goes with imagenet32 or"),
    ],
)
def test_mistakes_of_usage_exit_with_two_and_one_line(artifact, arguments, message):
    code, out, error = artifact(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert message in error


def test_verifying_says_present_missing_or_damaged_with_the_remedy(artifact, archives, root):
    artifact("celeba32", "--from", archives)
    images = root / "celeba32/train/images.npy"
    content = np.load(images, mmap_mode="r+")
    content[0, 0, 0, 0] ^= 1
    content.flush()
    (root / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"cut off")
    partial_folder(root, "imagenet32").mkdir()
    code, out, _ = artifact("--verify-only")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == ExitCode.DATA_MISSING  # for what is damaged
    assert list(lines) == list(ASSETS)
    assert "damaged  train/images.npy changed since it was prepared; remove " in lines["celeba32"]
    assert "damaged" in lines["inception"]
    assert "missing  half prepared; artifact fetch imagenet32 --from" in lines["imagenet32"]


def test_what_is_missing_is_no_failure_unless_it_was_named(artifact, root, monkeypatch):
    monkeypatch.setattr(fetch, "_damage", lambda *arguments: None)  # not of what the system has
    assert artifact("--verify-only")[0] == 0
    assert artifact("--verify-only", "cifar10")[0] == ExitCode.DATA_MISSING


def test_a_zip_file_that_is_cut_off_is_damaged(artifact, root):
    root.mkdir()
    for split in ("train", "test"):
        (root / f"cifar10-{split}.zip").write_bytes(b"PK\3\4 and no more")
    code, out, _ = artifact("--verify-only", "cifar10")
    assert code == ExitCode.DATA_MISSING
    assert "cifar10        damaged" in out
    assert "then artifact fetch cifar10" in out
