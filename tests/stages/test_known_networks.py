"""A query network of a published set is trained once; any other one in each run."""

import json

import pytest
from PIL import Image

from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline


@pytest.fixture
def run(toy_settings, tmp_path):
    """A run that ends with its query network; whether it had to be trained, and its files."""

    def run(name, changes=None, **options):
        trained = []

        def watch(stage, done, total):
            if stage == "query_network":
                trained.append(done)
            elif stage == "query":
                raise KeyboardInterrupt

        config = load_config(toy_settings, changes or {})
        folder, kept = tmp_path / name, {"known_networks": tmp_path / "known"}
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(config, folder, progress=watch, **(kept | options))
        files = [
            (folder / f"query_network.{kind}").read_bytes() for kind in ("safetensors", "json")
        ]
        return bool(trained), files

    return run


def test_the_second_run_on_a_published_set_takes_the_network_of_the_first(run):
    trained, files = run("first")
    assert trained
    assert run("second") == (False, files)
    assert "sha256" not in json.loads(files[1])


@pytest.mark.parametrize("changes", [{"seed": 1}, {"query_network.epochs": 2}])
def test_another_seed_and_other_settings_are_another_network(run, changes):
    run("first")
    assert run("second", changes)[0]


def test_without_the_folder_nothing_is_known_and_a_rehearsal_is_never_kept(run):
    run("first", known_networks=None)
    assert run("second", {"stage_seconds": 100.0})[0]
    assert run("third")[0]


def test_a_network_of_images_that_may_be_private_is_not_kept(run, tmp_path):
    for name in range(20):
        (tmp_path / f"mine/{name}").mkdir(parents=True)
        for value in range(6):
            picture = Image.new("L", (8, 8), 10 * name + value)
            picture.save(tmp_path / f"mine/{name}/{value}.png")
    mine = {"data.public": f"folder:{tmp_path / 'mine'}"}
    assert run("first", mine)[0]
    assert run("second", mine)[0]
    assert not (tmp_path / "known").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"sha256": "0"}'])
@pytest.mark.parametrize("name", ["query_network.json", "query_network.safetensors"])
def test_a_damaged_one_is_trained_anew(run, tmp_path, name, content):
    _, files = run("first")
    (path,) = (tmp_path / "known").rglob(name)
    path.write_bytes(content)
    assert run("second") == (True, files)
    assert run("third") == (False, files)
