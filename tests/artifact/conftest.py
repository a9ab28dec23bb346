"""A toy claim with two arms, and records as the pipeline would leave them."""

import copy
import sys
from typing import Any

import pytest
import yaml

from artifact import cli
from artifact.claims.records import ClaimRecord
from artifact.claims.registry import Claim, load_claim
from privimage.settings.defaults import default_settings

TOY = {
    "id": "toy",
    "title": "A toy",
    "statement": "The first arm is better.",
    "place_in_paper": "nowhere",
    "measures": {"metrics.cnn_accuracy": "higher", "privacy.sgd_noise_multiplier": "exact"},
    "orderings": [
        {"metric": "metrics.cnn_accuracy", "better": "higher", "first": "good", "second": "plain"}
    ],
    "look_alikes": {"0": ["O"], "1": ["l"]},
    "settings": {
        "smoke": {
            "human_minutes": 1,
            "compute_minutes": {"measured": 2, "hardware": "a laptop"},
            "needs": {"ram_gib": 0.001, "disk_gib": 0.001},
            "config": default_settings(
                image_size=8,
                num_labels=10,
                num_public_classes=80,
                public_size=1437,
                epsilon=10.0,
            )
            | {
                "data": {
                    "sensitive": "digits",
                    "public": "glyphs",
                    "image_size": 8,
                    "color": "grey",
                }
            },
            "arms": {"good": {}, "plain": {"selection.strategy": "none"}},
            "main_arm": "good",
        }
    },
}


def make_arm(accuracy: float, *, strategy: str = "semantic", **metrics: float) -> dict[str, Any]:
    classes = {"0": ["O", "x"], "1": ["l", "z"]} if strategy == "semantic" else {}
    return {
        "format": 1,
        "name": "toy",
        "seed": 0,
        "insecure": False,
        "metrics": {"cnn_accuracy": accuracy, **metrics},
        "privacy": {
            "epsilon": 9.99,
            "epsilon_rdp": 9.99,
            "epsilon_pld": 9.5,
            "target_epsilon": 10.0,
            "sgd_noise_multiplier": 4.25,
        },
        "selection": {"strategy": strategy, "classes": classes},
        "model": {"num_parameters": 1000},
        "data": {"sensitive": "digits", "public": "glyphs", "real_test": "digits"},
        "timings_seconds": {"query_network": 2.0, "pretrain": 3.0},
        "environment": {"device_name": "a CPU", "num_cpus": 2, "cuda": None},
    }


def make_record(seed: int = 0, *, good: float = 0.9, plain: float | None = 0.5) -> ClaimRecord:
    arms = {"good": make_arm(good)}
    if plain is not None:
        arms["plain"] = make_arm(plain, strategy="none")
    return ClaimRecord("toy", "smoke", seed, arms, arms["good"]["environment"], 8.0)


@pytest.fixture
def toy_document() -> dict[str, Any]:
    return copy.deepcopy(TOY)


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def arm():
    return make_arm


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Claim:
    """The toy claim, in a registry of its own; expected results lie beside it."""
    path = tmp_path / "repository" / "claims" / "toy" / "claim.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(TOY))
    monkeypatch.setenv("PRIVIMAGE_CLAIMS", str(path.parents[1]))
    return load_claim(path)


@pytest.fixture
def artifact(monkeypatch, capsys):
    """Types a command; returns (exit code, stdout, stderr)."""

    def typed(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["artifact", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return typed
