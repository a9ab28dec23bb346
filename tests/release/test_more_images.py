"""More images of a finished model, in three formats; what is refused leaves nothing."""

import hashlib
import json
import shutil
import tarfile
import weakref
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.datasets import ImageFolder

from privimage.errors import ConfigError, DataInvalidError, DataMissingError, RunFolderError
from privimage.release import image_writers
from privimage.release.checksums import CHECKSUMS
from privimage.release.image_files import images_are_insecure, load_images
from privimage.release.image_writers import FORMATS, ImageStream, write_stream
from privimage.release.more_images import Wanted, sample_more
from privimage.release.released_model import open_released_model
from privimage.run_folder.checkpoint import about_weights, save_weights
from tests.fuzz.damage import memory_bounded

SEVEN = Wanted(num_images=7)


def drawn(place, folder, wanted=SEVEN):
    """The set that an npz file holds."""
    sample_more(place, wanted, folder / "x.npz", kind="npz")
    found = load_images(folder / "x.npz")
    (folder / "x.npz").unlink()
    return found


@pytest.fixture(scope="module")
def run(finished):
    return finished / "run"


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    return drawn(run, tmp_path_factory.mktemp("expected"))


def test_labels_go_round_and_the_classes_have_their_names(expected, run):
    assert expected.images.shape == (7, 1, 8, 8)
    assert expected.labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert expected.class_names == load_images(run / "images.npz").class_names


def test_a_folder_is_what_image_folder_reads(run, expected, tmp_path):
    sample_more(run, SEVEN, tmp_path / "out", kind="folder")
    found = ImageFolder(str(tmp_path / "out"))
    assert found.classes == [expected.class_names[label] for label in range(7)]
    for number in range(7):
        picture, label = found[number]
        assert label == number
        pixels = np.array(picture.convert("L"))
        assert np.array_equal(pixels, expected.images[number, 0].numpy())


def test_shards_hold_pairs_of_a_picture_and_the_number_of_its_class(
    run, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(image_writers, "IMAGES_PER_SHARD", 3)
    sample_more(run, SEVEN, tmp_path / "out", kind="webdataset")
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in shards] == [f"images-00000{shard}.tar" for shard in range(3)]
    names, number = [], 0
    for shard in shards:
        with tarfile.open(shard) as archive:
            members = [*archive]
            names += [member.name for member in members]
            for picture, label in zip(members[::2], members[1::2], strict=True):
                content = archive.extractfile(picture)
                assert content is not None
                pixels = np.array(Image.open(BytesIO(content.read())))
                assert np.array_equal(pixels, expected.images[number, 0].numpy())
                text = archive.extractfile(label)
                assert text is not None
                assert int(text.read()) == expected.labels[number]
                number += 1
    assert names == [f"{n:09}.{kind}" for n in range(7) for kind in ("png", "cls")]
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["class_names"] == [*expected.class_names]
    assert (about["num_images"], about["seed"], about["insecure"]) == (7, 0, False)
    model = (run / "model.safetensors").read_bytes()
    assert about["model_sha256"] == hashlib.sha256(model).hexdigest()


def bytes_below(path):
    """The content of every file by its place."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(run, tmp_path, kind):
    suffix = ".npz" if kind == "npz" else ""
    places = [tmp_path / f"{name}{suffix}" for name in ("one", "two", "other")]
    for place, seed in zip(places, (3, 3, 4), strict=True):
        sample_more(run, Wanted(num_images=3, seed=seed), place, kind=kind)
    one, two, other = map(bytes_below, places)
    assert one == two
    assert one != other


def test_no_seed_gives_the_images_of_the_run_once_more(run, tmp_path):
    own = load_images(run / "images.npz").images[:7]  # drawn with the seed 0 of its settings
    assert not torch.equal(drawn(run, tmp_path).images, own)


def test_images_of_one_class_are_all_of_it(run, tmp_path):
    found = drawn(run, tmp_path, Wanted(num_images=5, label="3"))
    assert found.labels.tolist() == [3] * 5
    sample_more(run, Wanted(num_images=5, label="3"), tmp_path / "out", kind="folder")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["3"]


def test_sampler_and_steps_are_those_of_the_run_unless_told(run, expected, tmp_path):
    as_told = Wanted(num_images=7, sampler="ddim", num_steps=2)  # as its settings have it
    assert torch.equal(drawn(run, tmp_path, as_told).images, expected.images)
    other = Wanted(num_images=7, sampler="heun", num_steps=2)
    assert not torch.equal(drawn(run, tmp_path, other).images, expected.images)


def test_weights_alone_are_enough(run, expected, tmp_path):
    path = shutil.copy(run / "model.safetensors", tmp_path / "theirs.safetensors")
    as_told = Wanted(num_images=7, sampler="ddim", num_steps=2)
    found = drawn(path, tmp_path, as_told)
    assert torch.equal(found.images, expected.images)
    assert found.class_names == expected.class_names
    assert drawn(path, tmp_path).images.shape == (7, 1, 8, 8)  # without settings: the usual ones


def test_what_was_published_is_enough(run, tmp_path):
    for name in ("model.safetensors", "images.npz", "privacy_statement.json", CHECKSUMS):
        shutil.copy(run / name, tmp_path)
    assert len(drawn(tmp_path, tmp_path)) == 7


def test_a_run_of_an_older_version_is_read_with_its_settings(run, expected, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / CHECKSUMS).unlink()
    shutil.rmtree(folder / "stages")
    save_file(
        load_file(run / "model.safetensors"), folder / "model.safetensors", {"insecure": "false"}
    )
    assert torch.equal(drawn(folder, tmp_path).images, expected.images)
    with pytest.raises(DataInvalidError, match="which generator it holds"):
        open_released_model(folder / "model.safetensors")


def test_images_of_a_seeded_model_say_so(run, tmp_path):
    path = tmp_path / "model.safetensors"
    about, _ = about_weights(run / "model.safetensors")
    save_weights(path, load_file(run / "model.safetensors"), insecure=True, about=about)
    assert sample_more(path, SEVEN, tmp_path / "x.npz", kind="npz").insecure
    assert images_are_insecure(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"place": "nowhere"}, DataMissingError, "there is no"),
        ({"place": "config.yaml"}, DataInvalidError, "cannot be read as weights"),
        ({"place": "pretrained.safetensors"}, DataInvalidError, "which generator it holds"),
        ({"label": "cat"}, ConfigError, "there is no label 'cat'; choose 0, 1, 2"),
        ({"num_images": 0}, ConfigError, "num_images is 0; give at least 1"),
        ({"num_steps": 0}, ConfigError, "num_steps is 0"),
        ({"seed": -1}, ConfigError, "seed is -1"),
        ({"sampler": "euler"}, ConfigError, "choose ddim, heun, dpm_solver"),
        ({"kind": "zip"}, ConfigError, "choose folder, npz, webdataset"),
        ({"kind": "npz"}, ConfigError, "does not end with .npz"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(run, tmp_path, change, error, words):
    place, kind = run / change.pop("place", ""), change.pop("kind", "folder")
    with pytest.raises(error, match=words):
        sample_more(place, Wanted(**({"num_images": 3} | change)), tmp_path / "out", kind=kind)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_there_is_not_touched(run, tmp_path, kind):
    out = tmp_path / "x.npz"
    out.write_bytes(b"mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine").touch()
    for place in (out, folder):
        with pytest.raises(ConfigError):
            sample_more(run, SEVEN, place, kind=kind)
    assert out.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "mine", "x.npz"]


def test_an_empty_folder_may_be_there(run, tmp_path):
    (tmp_path / "out").mkdir()
    sample_more(run, SEVEN, tmp_path / "out", kind="folder")
    assert len([*(tmp_path / "out").rglob("*.png")]) == 7


def test_a_run_that_did_not_finish_is_refused(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "record.json").unlink()
    with pytest.raises(RunFolderError, match="no finished run"):
        open_released_model(folder)


@pytest.mark.parametrize("known_by", ["stages", CHECKSUMS])
def test_weights_that_the_run_did_not_leave_are_refused(run, tmp_path, known_by):
    folder = shutil.copytree(run, tmp_path / "run")
    if known_by == "stages":
        (folder / CHECKSUMS).unlink()
    else:
        shutil.rmtree(folder / "stages")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataInvalidError, match="not the file that its run left"):
        open_released_model(folder)


@pytest.mark.parametrize(
    "lie",
    [
        {"base_channels": 4096, "channel_multipliers": [8] * 4},  # some 100 GB, if it were made
        {"base_channels": 10**12},
        {"blocks_per_level": 10**9},
        {"channel_multipliers": [1] * 10**4},
        {"image_size": 7.5},
        {"num_classes": 3},
        {"unknown": 1},
    ],
)
def test_weights_of_another_network_than_they_say_are_refused(run, tmp_path, lie):
    about, _ = about_weights(run / "model.safetensors")
    assert about is not None
    about["network"] |= lie
    tensors, path = load_file(run / "model.safetensors"), tmp_path / "model.safetensors"
    save_file(tensors, path, {"about": json.dumps(about)})
    with memory_bounded(), pytest.raises(DataInvalidError):
        open_released_model(path)


def stream(batches, num):
    labels = torch.zeros(num, dtype=torch.int64)
    return ImageStream(batches, labels, ("all",), insecure=False, about={})


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataInvalidError])
def test_work_that_is_interrupted_leaves_nothing(tmp_path, kind, stop):
    def batches():
        yield torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        raise stop

    out = tmp_path / ("x.npz" if kind == "npz" else "x")
    with pytest.raises(stop):
        write_stream(out, stream(batches(), 8), kind=kind)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_one_batch_is_held_at_a_time(tmp_path, kind):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def batches():
        nonlocal most
        for _ in range(20):
            batch = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
            alive.add(batch)
            most = max(most, len(alive))
            yield batch

    out = tmp_path / ("x.npz" if kind == "npz" else "x")
    write_stream(out, stream(batches(), 80), kind=kind)
    assert most <= 2


def test_a_model_that_begins_with_sketches_does_so_again(finished_with_moments, tmp_path):
    published = tmp_path / "published"
    shutil.copytree(finished_with_moments / "query", published / "query")
    shutil.copy(finished_with_moments / "model.safetensors", published)
    drawn(published, tmp_path / "out")
    model = open_released_model(published)
    assert model.sketches is not None
    assert model.denoiser.largest_noise == model.sketches.noise_level == 0.5


@pytest.mark.parametrize("damage", ["missing", "cut", "other labels"])
def test_sketches_that_are_missing_or_no_ones_are_refused(finished_with_moments, tmp_path, damage):
    published = tmp_path / "published"
    shutil.copytree(finished_with_moments / "query", published / "query")
    shutil.copy(finished_with_moments / "model.safetensors", published)
    path = published / "query" / "moments.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        found = load_file(path)
        for name in ("count", "total", "products"):
            found[name] = found[name][:-1].contiguous()
        save_file(found, path)
    with pytest.raises((DataMissingError, DataInvalidError), match="moments"):
        drawn(published, tmp_path / "out")
    assert not (tmp_path / "out").exists()
