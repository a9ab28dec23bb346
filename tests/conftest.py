"""Shape annotations of the library are checked by beartype here, and only here."""

import copy
import shutil
from importlib import import_module

import pytest
import torch
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook below looks it up by name)

# Beneath the hook these would be compiled anew in every process; it leaves alone what it finds.
for name in ("dp_accounting.pld", "matplotlib.figure", "pytorch_fid.inception", "rich.console"):
    import_module(name)
import_module("sklearn.linear_model")
hook = install_import_hook("privimage", "tests.typecheck.check")
torch.set_num_threads(1)

from privimage.classifiers import downstream  # noqa: E402
from privimage.commands import planning, pretraining, synthesize  # noqa: E402  (after the hook, which wraps what is imported)
from privimage.data.preparation import Preparation  # noqa: E402
from privimage.data.sources import load_image_set  # noqa: E402
from privimage.settings.config import load_config  # noqa: E402
from privimage.settings.public_config import load_public_config  # noqa: E402
from privimage.stages import known_networks  # noqa: E402
from privimage.stages.pipeline import run_pipeline  # noqa: E402
from privimage.stages.public_training import train_public_weights  # noqa: E402

MOMENTS_ASKED = {"moments.noise_multiplier": 3.0, "moments.num_components": 8}


@pytest.fixture(scope="session", autouse=True)
def brief_perceptron():
    """A hundred rounds of scikit-learn's perceptron: on toys, most of a run's time went into it."""
    whole = downstream.pixel_classifier

    def brief(kind, *, seed, max_iter=None):
        return whole(kind, seed=seed, max_iter=max_iter or (100 if kind == "mlp" else None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downstream, "pixel_classifier", brief)
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever number a run in the test before has set: rounding depends on it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_mapping():
    """The whole method on digits and glyphs, a few seconds long; for fixtures of wide scope."""
    return {
        "name": "toy",
        "data": {
            "sensitive": "digits",
            "public": "glyphs",
            "image_size": 8,
            "color": "grey",
            "evaluate_on": "digits",
        },
        "privacy": {
            "epsilon": 10,
            "delta": 1e-4,
            "query_noise_multiplier": 8,
            "sampling_rate": 0.01,
            "num_steps": 3,
            "clip_norm": 0.001,
        },
        "query_network": {
            "widths": [8],
            "blocks": [1],
            "block": "basic",
            "epochs": 1,
            "batch_size": 512,
            "learning_rate": 0.1,
        },
        "selection": {"classes_per_label": 2},
        "network": {
            "base_channels": 8,
            "channel_multipliers": [1],
            "attention_resolutions": [],
            "blocks_per_level": 1,
        },
        "pretrain": {"num_images": 64, "batch_size": 32, "learning_rate": 1e-3},
        "finetune": {"learning_rate": 1e-3, "noise_multiplicity": 2},
        "sampling": {"num_images": 40, "num_steps": 2},
        "evaluation": {"cnn_width": 4, "cnn_epochs": 1, "cnn_batch_size": 20},
        "performance": {
            "device": "cpu",
            "num_threads": 1,
            "precision": "float32",
            "strategy": "folded",
            "micro_batch_size": 16,
            "compile": False,
        },
    }


@pytest.fixture(scope="session", autouse=True)
def nothing_known_before():
    """Commands neither time this machine before each toy run nor use what another test trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_networks, "default_place", lambda: None)
        for module in (planning, pretraining, synthesize):
            patch.setattr(module, "show_estimate", lambda *args, **named: {})
            patch.setattr(module, "time_given", lambda hours, **named: hours)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory, toy_mapping):
    """The run folder of a toy run, `run`, with its query network in `shared` beside it."""
    folder = tmp_path_factory.mktemp("finished")
    run_pipeline(load_config(toy_mapping), folder / "run", shared=folder / "shared")
    return folder


@pytest.fixture(scope="session")
def finished_with_moments(tmp_path_factory, toy_mapping):
    """The folder of the same run with moments, whose images begin with sketches."""
    folder = tmp_path_factory.mktemp("with_moments") / "run"
    run_pipeline(load_config(toy_mapping, MOMENTS_ASKED), folder)
    return folder


@pytest.fixture(scope="session")
def public_settings(toy_mapping):
    """Settings of public weights for toy runs."""
    sections = ("query_network", "network", "pretrain", "performance")
    values = {"public": "glyphs", "image_size": 8, "color": "grey"}
    return values | {section: toy_mapping[section] for section in sections}


@pytest.fixture(scope="session")
def public_weights(tmp_path_factory, public_settings):
    """Public weights from which toy runs may start."""
    folder = tmp_path_factory.mktemp("public") / "weights"
    glyphs = load_image_set("glyphs", "train", preparation=Preparation(8, "grey"))
    return train_public_weights(load_public_config(public_settings), glyphs, folder)


@pytest.fixture
def donated(finished, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(finished, tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def toy_settings(toy_mapping):
    """The same, for a test to change."""
    return copy.deepcopy(toy_mapping)
