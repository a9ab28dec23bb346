"""The moments' stage: asked only where it is set, paid for once, and kept through a crash."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from privimage.api import load
from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.moments import MOMENTS
from privimage.privacy.query import QUERY
from privimage.run_folder.donor import Donor
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline

ASKED = {"moments.noise_multiplier": 3.0, "moments.num_components": 8}


def stop_in_pretraining(stage, done, total):
    if stage == "pretrain":
        raise KeyboardInterrupt


def charged(folder):
    events = json.loads((folder / "ledger.json").read_text())["events"]
    return {event["name"]: event["charged"] for event in events}


def answer(path):
    found = safetensors.torch.load_file(path)
    return [found[name] for name in ("count", "total", "products")]


def is_same(one, other):
    return all(torch.equal(a, b) for a, b in zip(answer(one), answer(other), strict=True))


@pytest.fixture
def unpaid(toy_settings, tmp_path, monkeypatch):
    """A folder with moments in `private/` that a crash left before their charge."""
    folder, charge = tmp_path / "run", PrivacyLedger.charge
    kept = folder / "private" / "moments_answer.safetensors"

    def crash(ledger, name, count=1):
        if name == MOMENTS:
            assert kept.exists()
            raise KeyboardInterrupt
        charge(ledger, name, count)

    with monkeypatch.context() as patch:
        patch.setattr(PrivacyLedger, "charge", crash)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(load_config(toy_settings, ASKED), folder)
    assert charged(folder)[MOMENTS] == 0
    return folder


def test_moments_that_a_crash_left_unpaid_are_paid_for_before_they_are_used(toy_settings, unpaid):
    kept = unpaid / "private" / "moments_answer.safetensors"
    before = answer(kept)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(load_config(toy_settings, ASKED), unpaid, progress=stop_in_pretraining)
    found = answer(unpaid / "query" / "moments.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(before, found, strict=True))
    assert charged(unpaid) == {QUERY: 1, MOMENTS: 1, "dp_sgd": 0}


@pytest.mark.parametrize("damage", ["cut", "another question"])
def test_moments_that_are_no_answer_to_this_question_are_not_used(toy_settings, unpaid, damage):
    kept = unpaid / "private" / "moments_answer.safetensors"
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:100])
    else:
        found = safetensors.torch.load_file(kept)
        found["question"][0] += 1
        kept.write_bytes(safetensors.torch.save({**found, "count": found["count"] + 1e6}))
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(load_config(toy_settings, ASKED), unpaid, progress=stop_in_pretraining)
    assert answer(unpaid / "query" / "moments.safetensors")[0].abs().max() < 1e5
    assert charged(unpaid)[MOMENTS] == 1


def test_moments_that_were_paid_for_and_lost_are_not_asked_again(toy_settings, tmp_path):
    folder, config = tmp_path / "run", load_config(toy_settings, ASKED)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(config, folder, progress=stop_in_pretraining)
    (folder / "query" / "moments.safetensors").unlink()
    (folder / "private" / "moments_answer.safetensors").unlink()
    with pytest.raises(RunFolderError, match="already spent privacy budget on moments"):
        run_pipeline(config, folder)
    assert charged(folder)[MOMENTS] == 1


def test_a_whole_run_accounts_for_the_moments_and_says_so(toy_settings, tmp_path):
    asked, plain = tmp_path / "asked", tmp_path / "plain"
    record = run_pipeline(load_config(toy_settings, ASKED), asked)
    without = run_pipeline(load_config(toy_settings), plain)
    assert record["privacy"]["moments_noise_multiplier"] == 3.0
    assert "moments_noise_multiplier" not in without["privacy"]
    assert record["privacy"]["sgd_noise_multiplier"] > without["privacy"]["sgd_noise_multiplier"]
    assert record["privacy"]["epsilon"] <= record["privacy"]["target_epsilon"]
    statement = json.loads((asked / "privacy_statement.json").read_text())
    stated = {mechanism["name"]: mechanism for mechanism in statement["mechanisms"]}
    assert stated[MOMENTS]["uses"] == "1 of 1"
    assert "query/moments.safetensors" in statement["released"]
    assert (asked / "query" / "sketches.png").exists()
    assert not (plain / "query" / "moments.safetensors").exists()
    released = load(asked)
    assert released.model().largest_noise == 0.5
    assert released.sketches() is not None
    # the network was trained for lower noise levels
    one, other = (safetensors.torch.load_file(f / "pretrained.safetensors") for f in (asked, plain))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_repeated_run_asks_nothing_again(toy_settings, tmp_path):
    folder, config = tmp_path / "run", load_config(toy_settings, ASKED)
    run_pipeline(config, folder)
    before = (folder / "query" / "moments.safetensors").read_bytes()
    run_pipeline(config, folder)
    assert (folder / "query" / "moments.safetensors").read_bytes() == before
    assert charged(folder)[MOMENTS] == 1


def test_other_moments_in_a_folder_that_spent_budget_are_refused(toy_settings, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(load_config(toy_settings, ASKED), folder, progress=stop_in_pretraining)
    other = load_config(toy_settings, ASKED | {"moments.noise_multiplier": 4.0})
    with pytest.raises(RunFolderError):
        run_pipeline(other, folder)
    with pytest.raises(RunFolderError):
        run_pipeline(load_config(toy_settings), folder)
    assert charged(folder)[MOMENTS] == 1


def test_unknown_settings_and_too_many_directions_are_refused(toy_settings, tmp_path):
    with pytest.raises(ConfigError, match="allowed are noise_multiplier, num_components"):
        load_config(toy_settings, ASKED | {"moments.multiplier": 1.0})
    many = load_config(toy_settings, ASKED | {"moments.num_components": 10**6})
    with pytest.raises(ConfigError, match="num_components"):
        run_pipeline(many, tmp_path / "run")
    assert not (tmp_path / "run" / "ledger.json").exists()


def test_seeded_moments_say_so_in_their_file(toy_settings, tmp_path):
    seeded = load_config(toy_settings, ASKED | {"privacy.insecure_for_reproduction": True})
    run_pipeline(seeded, tmp_path / "one")
    run_pipeline(seeded, tmp_path / "two")
    path = "query/moments.safetensors"
    assert is_same(tmp_path / "one" / path, tmp_path / "two" / path)
    with safetensors.safe_open(tmp_path / "one" / path, "np") as file:
        assert file.metadata()["insecure"] == "true"
        assert isinstance(file.get_tensor("count"), np.ndarray)


def test_moments_that_are_taken_over_are_charged_here_too(toy_settings, tmp_path):
    config, donor = load_config(toy_settings, ASKED), Donor(tmp_path / "donor", "pretrained")
    run_pipeline(config, donor.folder)
    run_pipeline(config, tmp_path / "mine", donor=donor)
    path = "query/moments.safetensors"
    assert is_same(tmp_path / "mine" / path, donor.folder / path)
    assert charged(tmp_path / "mine")[MOMENTS] == 1
    for number, (there, here) in enumerate(
        [
            (donor.folder, {}),
            (donor.folder, ASKED | {"moments.noise_multiplier": 4.0}),
            (donor.folder, ASKED | {"moments.sketch_noise_level": 0.7}),
        ]
    ):
        refused = tmp_path / str(number)
        with pytest.raises((RunFolderError, DataInvalidError)):
            run_pipeline(load_config(toy_settings, here), refused, donor=Donor(there, "pretrained"))
        assert not (refused / "ledger.json").exists()


def test_seeded_moments_serve_no_run_that_promises(toy_settings, tmp_path):
    seeded = load_config(toy_settings, ASKED | {"privacy.insecure_for_reproduction": True})
    run_pipeline(seeded, tmp_path / "donor")
    with pytest.raises(RunFolderError, match="fixed seed"):
        run_pipeline(
            load_config(toy_settings, ASKED),
            tmp_path / "mine",
            donor=Donor(tmp_path / "donor", "pretrained"),
        )


def test_moments_need_no_pretraining(toy_settings, tmp_path):
    record = run_pipeline(
        load_config(toy_settings, ASKED | {"selection.strategy": "none"}), tmp_path / "run"
    )
    assert record["privacy"]["moments_noise_multiplier"] == 3.0
    assert set(charged(tmp_path / "run")) == {MOMENTS, "dp_sgd"}


def test_the_statement_says_whether_class_frequencies_were_asked_for(
    finished, finished_with_moments
):
    for folder, words in (
        (finished / "run", "are never asked for"),
        (finished_with_moments, "are released with noise"),
    ):
        statement = json.loads((folder / "privacy_statement.json").read_text())
        (note,) = [n for n in statement["notes"] if n.startswith("Class frequencies")]
        assert words in note
        assert words in (folder / "privacy_statement.md").read_text().replace("\n", " ")
