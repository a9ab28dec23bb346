"""The table of assets: whether each is there, and what to do where it is not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from artifact.assets.inventory import (
    ASSETS,
    FID_WEIGHTS,
    find_asset,
    how_to_get,
    missing_assets,
    places_found,
)
from artifact.claims.needs import all_assets
from artifact.claims.registry import load_claims
from privimage.data.places import DOWNLOADED, PREPARED
from privimage.data.public.published_sets import PUBLISHED
from privimage.errors import ConfigError


@pytest.fixture(autouse=True)
def no_torch_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def make_arrays(root: Path, name: str, *splits: str) -> None:
    for split in splits:
        folder = root / name / split
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", np.zeros((1, 3, 8, 8), np.uint8))
        np.save(folder / "labels.npy", np.zeros(1, np.int64))
        (folder / "class_names.json").write_text('["all"]')


def test_every_published_set_and_the_weights_of_fid_are_in_the_table():
    assert set(ASSETS) == {*PUBLISHED, FID_WEIGHTS}
    assert {name for name, asset in ASSETS.items() if asset.steps} == set(PREPARED)


def test_whatever_a_claim_needs_is_in_the_table():
    assert all_assets(load_claims()) <= set(ASSETS)


def test_what_is_missing_comes_with_its_command_on_one_line(tmp_path):
    missing = missing_assets(["cifar10", "imagenet32", "celeba64_male"], tmp_path)
    assert missing["cifar10"] == "artifact fetch cifar10"
    assert missing["imagenet32"].startswith("artifact fetch imagenet32 --from FOLDER (")
    assert "list_attr_celeba.txt" in missing["celeba64_male"]
    assert not any("\n" in remedy for remedy in missing.values())


def test_sets_that_come_with_the_bundle_are_never_missing(tmp_path):
    assert missing_assets(["digits", "glyphs"], tmp_path) == {}


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"no asset 'cifar'; choose cifar10, .*celeba64_male"):
        missing_assets(["cifar"], tmp_path)


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_set_is_there_when_both_splits_are(tmp_path, name):
    make_arrays(tmp_path, name, "train")
    assert name in missing_assets([name], tmp_path)
    make_arrays(tmp_path, name, "test")
    assert missing_assets([name], tmp_path) == {}


def test_zip_files_count_and_of_cifar_100_the_training_images_do(tmp_path):
    for name in ("cifar10-train", "cifar100-train"):
        zipfile.ZipFile(tmp_path / f"{name}.zip", "w").close()
    assert set(missing_assets(["cifar10", "cifar100"], tmp_path)) == {"cifar10"}
    zipfile.ZipFile(tmp_path / "cifar10-test.zip", "w").close()
    assert missing_assets(["cifar10", "cifar100"], tmp_path) == {}


def test_the_data_folder_is_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path))
    assert "imagenet32" in missing_assets(["imagenet32"])
    make_arrays(tmp_path, "imagenet32", "train", "test")
    assert missing_assets(["imagenet32"]) == {}


@pytest.mark.parametrize("name", ASSETS)
def test_the_way_to_an_asset_names_all_files_checksums_and_terms(name):
    text, asset = how_to_get(ASSETS[name]), find_asset(name)
    for file in asset.files:
        assert file.name in text
        assert file.digest in text
    assert asset.terms in text
    assert text.splitlines()[-1].endswith(f"artifact fetch {name} --from FOLDER")
    assert ("https://" in text) or ("http://" in text)


def test_the_space_that_is_stated_is_that_of_the_arrays():
    # 1,331,167 images of 3 * 32 * 32 bytes, and labels of 8
    assert ASSETS["imagenet32"].disk_bytes == 1_331_167 * 3080
    assert set(DOWNLOADED) < set(ASSETS)


def test_looking_for_assets_does_not_import_torch():
    program = "import sys, artifact.assets.inventory as a; a.missing_assets(a.ASSETS); "
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(
    not Path(os.environ.get("PRIVIMAGE_DATA", "."), "cifar10-train.zip").exists(),
    reason="cifar10-train.zip is not in PRIVIMAGE_DATA",
)
def test_the_real_cifar_zip_files_count_as_present():
    assert missing_assets(["cifar10", "cifar100"]) == {}
    root = Path(os.environ["PRIVIMAGE_DATA"])
    assert root / "cifar10-test.zip" in places_found(ASSETS["cifar10"], root)
