"""Any synthetic images against real ones: which sets, which features, which names."""

import json
import shutil

import numpy as np
import pytest

from privimage.errors import ConfigError, DataInvalidError, DataMissingError
from privimage.evaluation import judged_sets
from privimage.evaluation.features import Extractor
from privimage.evaluation.judge import judge
from privimage.evaluation.judged_sets import JudgedSets, extractors_of, open_sets, pixel_extractor
from privimage.release.export import export_images
from tests.evaluation.sets import CPU, image_set

NAMES = ("precision", "recall", "density", "coverage")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    """Whatever lies on this machine."""
    monkeypatch.setattr(judged_sets, "find_inception", lambda data_root: None)


@pytest.fixture(scope="module")
def whole_run(finished, tmp_path_factory):
    """A run with its query network, as `privimage synthesize` leaves it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(finished / "run", folder)
    for name in ("query_network.safetensors", "query_network.json"):
        shutil.copy(finished / "shared" / name, folder)
    return folder


def scores_of(sets, *, public=None, classifiers=False, num_images=5000):
    extractors = extractors_of(sets, public=public, device=CPU)
    return judge(
        sets,
        extractors,
        num_images=num_images,
        with_classifiers=classifiers,
        device=CPU,
    )


def test_a_run_gets_the_numbers_that_it_has_given_itself(whole_run):
    scores = scores_of(open_sets(str(whole_run), "digits"), classifiers=True)
    own = json.loads((whole_run / "metrics.json").read_text())
    for name in ("frechet_query_network", "cnn_accuracy", "mlp_accuracy"):
        assert scores[name] == pytest.approx(own[name], rel=1e-9)
    assert scores["logistic_regression_accuracy"] == own["logistic_regression_accuracy"]
    assert {f"{name}_query_network" for name in NAMES} <= scores.keys()
    assert (scores["num_images"], scores["num_real_images"]) == (40, 360)


def test_without_weights_run_and_public_images_features_are_pixels_and_say_so(whole_run, tmp_path):
    export_images(whole_run / "images.npz", tmp_path / "images")
    scores = scores_of(open_sets(str(tmp_path / "images"), "digits"))
    assert "frechet_pixels" in scores
    assert {f"{name}_pixels" for name in NAMES} <= scores.keys()
    assert not [name for name in scores if "fid" in name or "query" in name]


def test_pixels_are_averaged_to_a_bounded_number_of_features():
    images = image_set(3, size=32, channels=3)
    extractor = pixel_extractor(images, device=CPU)
    features = extractor(images.images)
    assert features.shape == (3, extractor.dims) == (3, 3 * 16 * 16)
    first = images.images[0, 0, :2, :2].double().mean() / 127.5 - 1
    assert features[0, 0] == pytest.approx(float(first), abs=1e-6)
    small = pixel_extractor(image_set(3, size=8), device=CPU)
    assert small.dims == 64


def test_public_images_give_features_of_their_own_name(whole_run):
    sets = open_sets(str(whole_run / "images.npz"), "digits")
    scores = scores_of(sets, public="digits")
    assert "frechet_public_classifier" in scores
    assert "frechet_query_network" not in scores
    assert scores == scores_of(sets, public="digits")


def test_with_the_weights_a_distance_is_called_fid(whole_run, monkeypatch):
    fake = Extractor("inception", 4, CPU, lambda x: x.flatten(1)[:, :4])
    monkeypatch.setattr(judged_sets, "find_inception", lambda data_root: "weights")
    monkeypatch.setattr(judged_sets, "inception_extractor", lambda weights, device: fake)
    scores = scores_of(open_sets(str(whole_run), "digits"))
    assert {"fid", "precision_inception", "frechet_query_network"} <= scores.keys()
    assert "frechet_pixels" not in scores


def saved(path, images, *, names=("cats", "dogs"), labels=None):
    labels = np.arange(len(images)) % len(names) if labels is None else labels
    np.savez(path, images=images, labels=labels, class_names=np.array(names))
    return str(path)


def pixels(num, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 1, size, size), dtype=np.uint8)


def test_classes_are_matched_by_name_and_not_by_number(tmp_path):
    one = saved(tmp_path / "one.npz", pixels(6), names=("dogs", "cats"))
    two = saved(tmp_path / "two.npz", pixels(6, seed=1), names=("cats", "dogs"))
    sets = open_sets(one, two)
    assert sets.synthetic.class_names == sets.real.class_names == ("cats", "dogs")
    assert sets.synthetic.labels.tolist() == [1, 0] * 3
    assert sets.fault_of_labels is None


@pytest.mark.parametrize(
    ("names", "labels", "part"),
    [
        (("cats", "birds"), None, "the classes differ: cats, birds of the images, cats, dogs"),
        (("cats", "dogs"), np.zeros(6, int), "the images are of one class"),
    ],
)
def test_classes_that_do_not_match_give_no_accuracy_and_a_reason(tmp_path, names, labels, part):
    one = saved(tmp_path / "one.npz", pixels(6), names=names, labels=labels)
    sets = open_sets(one, saved(tmp_path / "two.npz", pixels(6)))
    assert sets.fault_of_labels is not None
    assert part in sets.fault_of_labels
    assert not [name for name in scores_of(sets, classifiers=True) if "accuracy" in name]


def test_real_images_come_at_the_size_of_the_synthetic_ones(tmp_path):
    one = saved(tmp_path / "one.npz", pixels(6, size=8))
    sets = open_sets(one, saved(tmp_path / "two.npz", pixels(9, size=20)))
    assert sets.real.images.shape == (9, 1, 8, 8)


def test_of_too_few_images_there_is_a_distance_and_no_neighbour(tmp_path):
    sets = open_sets(saved(tmp_path / "one.npz", pixels(5)), saved(tmp_path / "two.npz", pixels(9)))
    scores = scores_of(sets)
    assert "frechet_pixels" in scores
    assert "precision_pixels" not in scores


def test_a_better_set_is_found_better():
    real = image_set(300, seed=0)
    like, unlike = image_set(300, seed=1), image_set(300, seed=2, shade=120)
    found = [scores_of(JudgedSets(images, real, None)) for images in (like, unlike)]
    assert found[0]["frechet_pixels"] < found[1]["frechet_pixels"] / 2
    for name in NAMES:
        assert found[0][f"{name}_pixels"] > 0.5
        assert found[1][f"{name}_pixels"] < 0.1


def test_the_number_of_images_is_bounded_and_told(tmp_path):
    sets = open_sets(
        saved(tmp_path / "one.npz", pixels(30)), saved(tmp_path / "two.npz", pixels(40))
    )
    scores = scores_of(sets, num_images=10)
    assert (scores["num_images"], scores["num_real_images"]) == (10, 40)
    assert scores == scores_of(sets, num_images=10)
    other = scores_of(JudgedSets(sets.synthetic, sets.real, None, seed=1), num_images=10)
    assert scores["frechet_pixels"] != other["frechet_pixels"]


@pytest.mark.parametrize(
    ("images", "against", "error"),
    [
        ("nowhere", "digits", ConfigError),
        ("folder:nowhere", "digits", DataMissingError),
        ("one.npz", "cifar10", DataMissingError),
        ("one.npz", "digitz", ConfigError),
        ("one.npz", "folder:nowhere", DataMissingError),
        ("text.npz", "digits", DataInvalidError),
    ],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, images, against, error):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path / "empty"))
    saved(tmp_path / "one.npz", pixels(6))
    (tmp_path / "text.npz").write_text("no images")
    with pytest.raises(error):
        open_sets(images, against)


def test_a_damaged_description_of_the_network_is_named(whole_run, tmp_path):
    folder = shutil.copytree(whole_run, tmp_path / "run")
    for text in ("{", "[]", '{"num_classes": 1e99}', '{"num_classes": -1}'):
        (folder / "query_network.json").write_text(text)
        with pytest.raises(DataInvalidError, match=r"query_network\.json"):
            extractors_of(open_sets(str(folder), "digits"), public=None, device=CPU)
