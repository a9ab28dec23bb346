"""Wrong inputs and unfit machines, each through the real command line.

Every row says what is wrong, and is checked for the exit code, the named error with its remedy in
one line, and that nothing was left behind.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.error import URLError

import pytest
import yaml

from artifact.assets.inventory import ASSETS
from artifact.claims import doctor as environment
from artifact.claims import runner
from artifact.claims.records import write_record
from artifact.exit_codes import ExitCode
from artifact.machine import gpu
from artifact.machine.torch_build import TorchBuild, TorchDevice
from privimage.data.public import downloads
from privimage.machine import limits
from privimage.run_folder.lock import locked
from tests.artifact.fake_nvml import BIG, GIB, INSTANCE, SMALL, FakeNvml

CUDA_BUILD = TorchBuild("2.14.1", "13.0", "2.30.7", ("sm_80", "sm_90"))
RUN = ("run", "toy")


@dataclasses.dataclass
class Place:
    """An empty folder with the toy claim's registry, and the means to spoil things."""

    folder: Path
    document: dict[str, Any]
    record: Callable[..., Any]
    monkeypatch: pytest.MonkeyPatch

    def needs(self, **needs: Any) -> None:
        """Rewrite the claim with other needs."""
        self.document["settings"]["smoke"]["needs"] |= needs
        path = self.folder / "repository/claims/toy/claim.yaml"
        path.write_text(yaml.safe_dump(self.document))

    def gpus(self, nvml: FakeNvml, *seen_by_torch: tuple, package: str = "nvidia-ml-py") -> None:
        """Install this NVML, and let torch see these devices; the setting wants 24 GiB."""
        self.needs(gpu_memory_gib=24.0)
        self.monkeypatch.setitem(cast(Any, sys.modules), "pynvml", nvml)
        self.monkeypatch.setattr(gpu, "packages_distributions", lambda: {"pynvml": [package]})
        devices = tuple(TorchDevice(g[1][-36:], g[2] * GIB, (8, 0)) for g in seen_by_torch)
        build = dataclasses.replace(CUDA_BUILD, devices=devices)
        self.monkeypatch.setattr(environment, "probe_torch", lambda: build)


@pytest.fixture
def place(toy, tmp_path, monkeypatch, toy_document, record):
    for folder in ("data", "archives"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("PRIVIMAGE_OFFLINE", raising=False)
    monkeypatch.setattr(downloads, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(environment, "probe_torch", lambda: TorchBuild("2.14.1"))
    return Place(tmp_path, toy_document, record, monkeypatch)


def no_network(*args: Any, **kwargs: Any) -> None:
    raise URLError(OSError(101, "Network is unreachable"))


def wrong_archive(place: Place) -> None:
    (place.folder / "archives/cifar-10-python.tar.gz").write_bytes(b"a page that asks to log in")


def truncated_archive(place: Place) -> None:
    """CelebA's list is right, the first part of its images is there."""
    partition = b"000001.jpg 0\n"
    images, splits = ASSETS["celeba32"].files
    splits = dataclasses.replace(splits, digest=hashlib.md5(partition).hexdigest())
    asset = dataclasses.replace(ASSETS["celeba32"], files=(images, splits))
    place.monkeypatch.setitem(ASSETS, "celeba32", asset)
    (place.folder / "archives" / splits.name).write_bytes(partition)
    (place.folder / "archives" / images.name).write_bytes(b"PK")


def offline(place: Place) -> None:
    place.monkeypatch.setenv("PRIVIMAGE_OFFLINE", "1")


def no_source(place: Place) -> None:
    value = {"metric": "metrics.cnn_accuracy", "arm": "good", "better": "higher", "source": ""}
    value |= {"mean": 0.9, "low": 0.8, "high": 1.0}
    setting = {"seeds": [0], "hardware": "a laptop", "values": [value]}
    document = {"claim": "toy", "settings": {"smoke": setting | {"orderings": [], "selection": []}}}
    path = place.folder / "repository/expected_results/toy.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(document))


def old_record(place: Place) -> None:
    path = place.folder / "runs/toy/smoke/seed0/record.json"
    write_record(path, place.record())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def full_disk(place: Place) -> None:
    usage = SimpleNamespace(total=GIB, used=GIB, free=0)
    place.monkeypatch.setattr(limits.shutil, "disk_usage", lambda path: usage)


def broken_torch(place: Place) -> None:
    broken = TorchBuild(problem="torch cannot be imported: libcudart.so is missing")
    place.monkeypatch.setattr(environment, "probe_torch", lambda: broken)


def old_driver(place: Place) -> None:
    nvml = FakeNvml([BIG])
    nvml.driver = "550.54.15"
    place.gpus(nvml)


MISTAKES = {
    "wrong claim": (lambda place: None, ("run", "tooy"), ("no claim 'tooy'", "did you mean toy?")),
    "setting not offered": (
        lambda place: None,
        (*RUN, "--setting", "huge"),
        ("toy has no setting 'huge'", "allowed are smoke"),
    ),
    "expected value without a source, run": (no_source, RUN, ("source is ''", "say where")),
    "expected value without a source": (
        no_source,
        ("compare", "toy"),
        ("repository/expected_results/toy.yaml", "values[0].source is ''", "say where"),
    ),
    "record of another version": (
        old_record,
        ("compare", "toy"),
        ("record format 99", "this version reads 1", "run the claim again"),
    ),
    "record of another version, report": (old_record, ("report",), ("record format 99",)),
    "wrong asset": (
        lambda place: None,
        ("fetch", "cifar11"),
        ("there is no asset 'cifar11'", "choose cifar10"),
    ),
    "no folder of archives": (
        lambda place: None,
        ("fetch", "imagenet32", "--from", "nowhere"),
        ("--from nowhere is not a folder", "the folder that has the archives"),
    ),
}
UNFIT = {
    "full disk": (full_disk, RUN, ("0.0 GiB free", "free some space", "--out")),
    "full disk, fetch": (full_disk, ("fetch", "cifar10"), ("0 GB free", "free some space")),
    "output below a file": (
        lambda place: (place.folder / "file").touch(),
        (*RUN, "--out", "file/runs"),
        ("file/runs cannot be written (Not a directory)", "choose another place with --out"),
    ),
    "too little memory": (
        lambda place: place.needs(ram_gib=1e6),
        RUN,
        ("needs 1e+06 GiB of memory", "artifact doctor", "--force"),
    ),
    "broken torch": (broken_torch, RUN, ("libcudart.so is missing", "make setup")),
    "GPU too small": (
        lambda place: place.gpus(FakeNvml([SMALL]), SMALL),
        RUN,
        ("needs 24 GiB of GPU memory, 3.0 are free",),
    ),
    "smaller of two GPUs": (
        lambda place: place.gpus(FakeNvml([SMALL, BIG]), SMALL, BIG),
        RUN,
        ("3.0 are free", "H100 has 70.0 GiB free: set CUDA_VISIBLE_DEVICES=GPU-00000001"),
    ),
    "MIG": (
        lambda place: place.gpus(FakeNvml([BIG], instances=[INSTANCE]), INSTANCE),
        RUN,
        ("needs 24 GiB of GPU memory, 9.0 are free",),
    ),
    "wrong package": (
        lambda place: place.gpus(FakeNvml([BIG]), BIG, package="pynvml"),
        RUN,
        ("the deprecated package pynvml", "pip uninstall pynvml"),
    ),
    "no driver": (
        lambda place: place.gpus(FakeNvml(fails=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND)),
        RUN,
        ("no NVIDIA driver library", "--gpus all"),
    ),
    "no permission": (
        lambda place: place.gpus(FakeNvml(fails=FakeNvml.NVML_ERROR_NO_PERMISSION)),
        RUN,
        ("no permission to ask the driver", "/dev/nvidia*"),
    ),
    "old driver": (old_driver, RUN, ("550.54.15 is too old for CUDA 13.0", "update the driver")),
}
NO_DATA = {
    "missing data": (
        lambda place: place.needs(data=["cifar10"]),
        RUN,
        ("toy/smoke: needs cifar10", "artifact fetch cifar10", "--force"),
    ),
    "data that needs registration": (
        lambda place: place.needs(data=["imagenet32"]),
        RUN,
        ("artifact fetch imagenet32 --from FOLDER", "ILSVRC2012_img_train.tar"),
    ),
    "archives not given": (
        lambda place: None,
        ("fetch", "imagenet32"),
        ("imagenet32 needs its official archives", "artifact fetch imagenet32 --from FOLDER"),
    ),
    "truncated archive": (
        truncated_archive,
        ("fetch", "celeba32", "--from", "archives"),
        ("img_align_celeba.zip is cut off: 2 bytes of 1,443,490,838", "repeat its download"),
    ),
    "wrong checksum": (
        wrong_archive,
        ("fetch", "cifar10", "--from", "archives"),
        ("is not the published file", "c58f30108f718f92721af3b95e74349a", "fetch the file again"),
    ),
    "no network": (
        lambda place: None,
        ("fetch", "inception"),
        ("could not be downloaded", "Network is unreachable", "check the network", "or get pt_"),
    ),
    "offline by option": (
        lambda place: None,
        ("fetch", "inception", "--offline"),
        ("downloads are forbidden", "artifact fetch inception --from FOLDER"),
    ),
    "offline by environment": (
        offline,
        ("fetch", "cifar10"),
        ("downloads are forbidden", "artifact fetch cifar10 --from FOLDER"),
    ),
}
ROWS = [
    pytest.param(*row, code, id=name)
    for table, code in (
        (MISTAKES, ExitCode.USAGE),
        (UNFIT, ExitCode.ENVIRONMENT_UNFIT),
        (NO_DATA, ExitCode.DATA_MISSING),
    )
    for name, row in table.items()
]


@pytest.mark.parametrize(("spoil", "arguments", "says", "code"), ROWS)
def test_what_is_wrong_is_named_with_its_remedy_and_leaves_nothing_behind(
    artifact, place, spoil, arguments, says, code
):
    spoil(place)
    before = files_in(place.folder)
    found, _, err = artifact(*arguments)
    assert found == code
    assert "Traceback" not in err
    error = err.splitlines()[-1]
    assert error.startswith("error: ")
    for part in says:
        assert part in error
    assert files_in(place.folder) == before


def test_a_second_run_in_a_folder_is_kept_out_and_harms_nothing(artifact, place, record):
    folder = place.folder / "runs/toy/smoke/seed0"
    write_record(folder / "record.json", record())
    with locked(folder):
        before = files_in(place.folder)
        code, _, err = artifact(*RUN)
        assert files_in(place.folder) == before
    assert code == ExitCode.USAGE
    assert "in use by another process; wait for it or choose another" in err.splitlines()[-1]


def test_a_forced_run_says_what_is_lacking_and_goes_on(artifact, place, arm):
    place.monkeypatch.setattr(runner, "run_pipeline", lambda *args, **kwargs: arm(0.9))
    place.gpus(FakeNvml(fails=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    place.needs(data=["cifar10"])
    code, _, err = artifact(*RUN, "--force")
    assert code == 0
    warning = err.splitlines()[0]
    assert warning.startswith("warning: toy/smoke: needs 24 GiB of GPU memory")
    assert "needs cifar10" in warning


def test_missing_fid_weights_never_stop_a_run_and_doctor_tells_what_they_cost(artifact, place, arm):
    place.monkeypatch.setattr(runner, "run_pipeline", lambda *args, **kwargs: arm(0.9))
    place.needs(data=["inception"])
    assert artifact(*RUN)[0] == 0
    code, out, _ = artifact("doctor")
    assert code == 0
    assert "FID is not measured" in out
    assert "1 of 1 settings can run here: toy/smoke" in out


def test_verify_only_tells_missing_weights_with_the_command_that_gets_them(artifact, place):
    before = files_in(place.folder)
    code, out, _ = artifact("fetch", "--verify-only", "inception")
    assert code == ExitCode.DATA_MISSING
    assert out.split()[:2] == ["inception", "missing"]
    assert "artifact fetch inception" in out
    assert files_in(place.folder) == before


def test_doctor_exits_with_three_where_nothing_can_run(artifact, place):
    broken_torch(place)
    before = files_in(place.folder)
    code, out, _ = artifact("doctor")
    assert code == ExitCode.ENVIRONMENT_UNFIT
    assert "0 of 1 settings can run here: none" in out
    assert json.loads(artifact("doctor", "--json")[1])["settings"][0]["state"] == "WARN"
    assert files_in(place.folder) == before


def files_in(folder: Path) -> dict[str, bytes | None]:
    """Everything below the folder, with its content."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}
