"""`privimage verify` on runs that went another way: taken over, ended early, with a fixed seed."""

import pytest

from privimage.release.checksums import CHECKSUMS, read_checksums
from privimage.release.verify import verify_run
from privimage.run_folder.donor import Donor
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline


def answers(folder):
    return {check.what: (check.answer, check.reason) for check in verify_run(folder)}


def failed(folder):
    return {what: why for what, (answer, why) in answers(folder).items() if answer == "FAILED"}


@pytest.fixture
def made(finished, toy_mapping, tmp_path):
    """A run with other settings, not evaluated, for that takes longest."""

    def make(overrides=None, *, donor=None):
        config = load_config(toy_mapping, {"data.evaluate_on": None} | (overrides or {}))
        run_pipeline(config, tmp_path / "run", shared=finished / "shared", donor=donor)
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("entry", ["pretrained", "finetuned", "samples"])
def test_a_run_that_took_stages_over_holds(made, finished, entry):
    assert failed(made(donor=Donor(finished / "run", entry))) == {}


def test_a_run_without_a_query_holds(made):
    assert failed(made({"selection.strategy": "none"})) == {}


@pytest.mark.slow  # noise is searched for by PLD
def test_a_run_by_the_other_accountant_holds(made):
    folder = made({"privacy.accountant": "pld"})
    assert failed(folder) == {}
    assert "promised 10 by PLD" in answers(folder)["epsilon, counted again"][1]


def test_a_run_that_ended_early_holds_also_without_what_tells_where(made):
    folder = made({"stage_seconds": 1e-9, "privacy.num_steps": 50})
    assert failed(folder) == {}
    assert not {"ledger.json", "stats.jsonl"} & read_checksums(folder).keys()
    for name in ("ledger.json", "stats.jsonl"):  # as it is published
        (folder / name).unlink()
    assert set(answers(folder)["the ledger is whole"]) == {"not made", "ledger.json is not here"}
    assert answers(folder)["epsilon, counted again"][0] == "ok"


def test_a_run_with_a_fixed_seed_fails_for_that_alone(made):
    folder = made({"privacy.insecure_for_reproduction": True})
    assert [*failed(folder)] == ["the noise was secure"]


def test_a_run_of_before_the_checksums_is_checked_by_its_manifests(donated):
    (donated / "run" / CHECKSUMS).unlink()
    assert failed(donated / "run") == {}
    assert answers(donated / "run")["published files are unchanged"][0] == "not made"
