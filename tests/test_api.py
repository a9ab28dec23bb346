import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import privimage
from privimage.api import own_images
from privimage.data.image_set import ImageSet
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.diffusion.generate import generate_images
from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.settings.config import SamplingConfig
from privimage.settings.description import Description
from tests.toy_settings import TOY

QUICK = TOY | {
    "privacy.sampling_rate": 0.1,
    "pretrain.num_images": 128,
    "sampling.num_images": 20,
    "performance.strategy": "loop",
}


@pytest.fixture(scope="module")
def digits():
    found = load_image_set("digits", "train", preparation=Preparation(8, "grey"))
    return found.take(torch.arange(200))


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    images = digits.images[:, 0].numpy()
    return privimage.synthesize(
        images,
        digits.labels.numpy(),
        public="glyphs",
        epsilon=10,
        folder=folder,
        public_size=200,
        settings=QUICK,
    )


def test_arrays_in_memory_become_images_a_statement_a_ledger_and_a_model(finished):
    assert len(finished.images) == 20
    assert finished.images.image_size == 8
    assert finished.statement["target"]["epsilon"] == 10
    assert finished.ledger.reserved_epsilon("rdp") <= 10
    assert finished.ledger.charged("dp_sgd") == 2
    new, _ = generate_images(
        finished.model(),
        SamplingConfig(num_images=10, num_steps=2),
        generator=torch.Generator().manual_seed(0),
    )
    assert new.shape == (10, 1, 8, 8)
    assert finished.sketches() is None  # 20 images a label are too few for moments


def test_a_run_can_be_shown(finished, tmp_path):
    page = finished.show(tmp_path / "page.html")
    assert "0.0001)-differentially private" in page.read_text()
    assert finished.show(for_owner=True) == finished.folder / "private/page.html"


def test_the_statement_names_what_was_not_declared(finished):
    assumed = " ".join(finished.statement["assumed_public"])
    assert "classes" in assumed
    assert "200" not in assumed


def test_the_same_call_continues_a_run_and_another_one_is_refused(finished, digits):
    def again(**changes):
        call = {"public": "glyphs", "epsilon": 10, "public_size": 200, "settings": QUICK} | changes
        arrays = digits.images[:, 0].numpy(), digits.labels.numpy()
        return privimage.synthesize(*arrays, folder=finished.folder, **call)

    assert torch.equal(again().images.images, finished.images.images)
    with pytest.raises(RunFolderError):
        again(epsilon=5)


def test_a_folder_without_a_finished_run_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="no finished run"):
        privimage.load(tmp_path)


def test_both_sets_may_be_image_sets_and_an_empty_private_one_is_not_looked_for_elsewhere(
    digits, tmp_path
):
    public = load_image_set("glyphs", "train", preparation=Preparation(8, "grey"))
    empty = ImageSet(digits.images[:0], digits.labels[:0], digits.class_names, "none", 200)
    made = privimage.synthesize(
        empty,
        public=public,
        epsilon=10,
        folder=tmp_path / "run",
        class_names=digits.class_names,
        public_size=200,
        image_size=8,
        color="grey",
        settings=QUICK,
    )
    assert made.images.class_names == digits.class_names


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((3, 8, 8), np.float32)}, DataInvalidError, "uint8"),
        ({"labels": np.zeros(2, np.int64)}, DataInvalidError, "labels are int64"),
        ({"images": "digits"}, ConfigError, "labels are given beside a set"),
        ({"epsilon": 0}, ConfigError, "epsilon is 0"),
        ({"settings": {"privacy.stepz": 3}}, ConfigError, "stepz"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(change, error, message, tmp_path):
    call = {
        "images": np.zeros((3, 8, 8), np.uint8),
        "labels": np.zeros(3, np.int64),
        "public": "glyphs",
        "epsilon": 10,
    } | change
    images, labels = call.pop("images"), call.pop("labels")
    with pytest.raises(error, match=message):
        privimage.synthesize(images, labels, folder=tmp_path / "run", **call)
    assert not (tmp_path / "run").exists()


def test_neither_the_package_nor_the_first_word_of_a_command_brings_torch():
    code = """if True:
        import sys
        import artifact.cli, privimage, privimage.cli
        assert not {"torch", "numpy", "scipy", "pydantic"} & set(sys.modules)
        privimage.PrivacyPlan
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_set_keeps_its_class_names_and_the_size_that_its_owner_published(digits):
    cats = replace(digits, class_names=tuple("abcdefghij")).with_public_size(1000)
    config, sets = own_images(cats, "glyphs", epsilon=10, description=Description(), overrides={})
    assert sets.sensitive.class_names == tuple("abcdefghij")
    assert sets.sensitive.public_size == config.data.public_size == 1000
    assert config.data.assumed == ("public_size", "classes", "image_size", "color")


def test_an_override_of_a_source_is_the_set_that_is_used(digits):
    config, sets = own_images(
        digits,
        "glyphs",
        epsilon=10,
        description=Description(),
        overrides={"data.sensitive": "digits"},
    )
    assert config.data.sensitive == sets.sensitive.source == "digits"
    assert len(sets.sensitive) > len(digits)
