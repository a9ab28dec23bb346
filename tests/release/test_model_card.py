"""Card and statement as a run leaves them beside its files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from privimage.machine.terminal.plain_text import escaped
from privimage.release import record
from privimage.release.record import code_identity
from privimage.run_folder.donor import Donor
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline


@pytest.fixture(scope="module")
def images_only(finished, tmp_path_factory, toy_mapping):
    """Its images taken over by a run that does not evaluate on real ones."""
    folder = tmp_path_factory.mktemp("images")
    config = load_config(toy_mapping, {"data.evaluate_on": None})
    donor = Donor(finished / "run", "samples")
    run_pipeline(config, folder, shared=finished / "shared", donor=donor)
    return folder


def card_of(folder):
    return (folder / "model_card.md").read_text()


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def code_of(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def section(card, title):
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_code_on_the_card_loads_the_images_and_the_weights(finished, tmp_path, monkeypatch):
    for name in ("images.npz", "model.safetensors"):  # what a stranger gets, and nothing else
        shutil.copy(finished / "run" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = code_of(card_of(finished / "run"))
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    with np.load("images.npz") as arrays:
        assert np.array_equal(names["images"], arrays["images"])
    assert [names["class_names"][label] for label in names["labels"][:3]] == ["0", "1", "2"]
    loaded, released = names["denoiser"].state_dict(), load_file("model.safetensors")
    assert loaded.keys() == released.keys()
    assert all((loaded[name] == value).all() for name, value in released.items())
    assert names["new_images"].shape == (10, 1, 8, 8)
    assert names["new_labels"].tolist() == list(range(10))


def test_the_card_names_network_classes_and_public_data(finished):
    card = card_of(finished / "run")
    told = record_of(finished / "run")
    words = " ".join(card.split())
    assert f"{told['model']['num_parameters']:,} parameters" in words
    assert '40 of 8 x 8 pixels, grey; 10 classes, equally frequent: "0", "1", "2"' in words
    assert "Public: `glyphs`; classes for pre-training: chosen by the noisy histogram" in words
    for label, chosen in told["selection"]["classes"].items():
        quoted = ", ".join(f'"{escaped(name)}"' for name in chosen)
        assert f'For "{label}": {quoted}' in words
    assert "USENIX Security Symposium 2024" in words


def test_of_the_sensitive_images_the_card_tells_size_and_keyed_hash_only(finished):
    data = section(card_of(finished / "run"), "Training data")
    data_id = json.loads((finished / "run" / "ledger.json").read_text())["data_id"]
    assert "1,437 images (the published size)" in data
    assert data_id in data
    assert "digits" not in card_of(finished / "run")  # the name of their source


def test_scores_on_real_images_are_marked_as_outside_of_the_guarantee(finished, images_only):
    told = record_of(finished / "run")
    scores = section(card_of(finished / "run"), "Scores")
    assert "**Outside of the privacy guarantee**" in scores
    assert f"| cnn_accuracy | {told['metrics']['cnn_accuracy']:.4g} |" in scores
    without = section(card_of(images_only), "Scores")
    assert "None were computed on real images" in without
    assert "|" not in without


def test_a_card_of_images_alone_speaks_of_no_weights(images_only):
    card = card_of(images_only)
    assert len(code_of(card)) == 1
    assert "model.safetensors" not in card
    assert "parameters" not in card


def test_privacy_on_the_card_is_that_of_the_statement_beside_it(finished):
    statement = json.loads((finished / "run" / "privacy_statement.json").read_text())
    privacy = section(card_of(finished / "run"), "Privacy")
    assert f"({statement['spent']['epsilon']:.4f}, 0.0001)-differentially private" in privacy
    (link,) = re.findall(r"\]\((.*?)\)", privacy)
    assert (finished / "run" / link).is_file()


def test_the_statement_lists_files_that_are_there_and_says_how_the_run_was_done(
    finished, images_only
):
    for folder in (finished / "run", images_only):
        statement = json.loads((folder / "privacy_statement.json").read_text())
        assert all((folder / name).is_file() for name in statement["released"])
        assert ("model.safetensors" in statement["released"]) == (folder != images_only)
        assert statement["code"] == code_identity()
        assert (statement["public_size"], statement["noise_multiplicity"]) == (1437, 2)
        # sqrt(2) for two votes an image, and the clip norm
        query, sgd = statement["mechanisms"]
        assert (query["sensitivity_l2"], sgd["sensitivity_l2"]) == (pytest.approx(2**0.5), 0.001)


def test_steps_in_the_model_are_told_beside_those_paid_for(finished, images_only):
    for folder in (finished / "run", images_only):  # also where the model was made elsewhere
        told = record_of(folder)["privacy"]
        assert (told["steps"], told["steps_taken"]) == (3, 3)


def test_without_a_guarantee_the_card_says_so_at_the_top(toy_settings, finished, tmp_path):
    config = load_config(toy_settings, {"privacy.insecure_for_reproduction": True})
    run_pipeline(config, tmp_path, shared=finished / "shared")
    card = card_of(tmp_path)
    assert "NO GUARANTEE" in " ".join(card.split("\n\n")[1:2])
    assert "differentially private" not in section(card, "Privacy")


@pytest.mark.parametrize("name", ["privacy/rng.py", "release/templates/model_card.md.j2"])
def test_the_code_is_named_by_its_content_and_not_by_its_place(tmp_path, monkeypatch, name):
    here = code_identity()
    shutil.copytree(Path(record.__file__).parents[1], tmp_path / "copy")
    monkeypatch.setattr(record, "__file__", str(tmp_path / "copy" / "release" / "record.py"))
    assert code_identity() == here
    with (tmp_path / "copy" / name).open("a") as file:
        file.write("\n")
    assert code_identity()["sha256"] != here["sha256"]
