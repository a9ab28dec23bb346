import json
import logging

import pytest
import yaml

from artifact.claims import arms, runner
from artifact.claims.arms import Source, resolve_arms
from artifact.claims.records import read_record
from artifact.claims.registry import load_claim
from artifact.claims.runner import planned_ledger, run_claim, work_seconds
from artifact.exit_codes import RunFailedError
from privimage.errors import BudgetError, ConfigError, DataMissingError, RunFolderError
from privimage.run_folder.donor import Donor


@pytest.fixture
def calls(monkeypatch, arm):
    """Replaces the pipeline; the calls it got."""
    seen = []

    def fake(config, folder, *, shared, donor, progress, world):
        seen.append((config, folder, shared))
        progress("pretrain", 1, 2)
        return arm(0.9, strategy=config.selection.strategy)

    monkeypatch.setattr(runner, "run_pipeline", fake)
    return seen


def test_every_arm_runs_with_its_own_settings_in_its_own_folder(toy, tmp_path, calls):
    run_claim(toy, "smoke", seed=3, out=tmp_path)
    folder = tmp_path / "toy/smoke/seed3"
    strategies = {path.name: config.selection.strategy for config, path, _ in calls}
    assert strategies == {"good": "semantic", "plain": "none"}
    assert [path for _, path, _ in calls] == [folder / "good", folder / "plain"]
    assert {shared for _, _, shared in calls} == {folder / "shared"}
    assert {config.seed for config, _, _ in calls} == {3}


def test_the_record_holds_all_arms_and_progress_names_the_arm(toy, tmp_path, calls):
    seen = []
    record = run_claim(toy, "smoke", seed=0, out=tmp_path, on_progress=lambda *a: seen.append(a))
    assert read_record(tmp_path / "toy/smoke/seed0/record.json") == record
    assert list(record.arms) == ["good", "plain"]
    assert record.environment["device_name"] == "a CPU"
    assert seen == [("good", "pretrain", 1, 2), ("plain", "pretrain", 1, 2)]


def test_the_shared_stage_is_counted_once(arm):
    # Each arm reports 2 s for the query network and 3 s of its own: 2 + 3 + 3.
    assert work_seconds({"a": arm(0.9), "b": arm(0.9)}) == 8.0


def test_a_defect_leaves_one_line_a_traceback_in_the_log_and_the_finished_arms(
    toy, tmp_path, monkeypatch, arm
):
    def fake(config, folder, *, shared, donor, progress, world):
        if folder.name == "plain":
            raise ZeroDivisionError("first line\nsecond line")
        return arm(0.9)

    monkeypatch.setattr(runner, "run_pipeline", fake)
    with pytest.raises(RunFailedError) as error:
        run_claim(toy, "smoke", seed=0, out=tmp_path)
    folder = tmp_path / "toy/smoke/seed0"
    assert "\n" not in str(error.value)
    assert str(folder / "log.txt") in str(error.value)
    assert error.value.exit_code == 5
    assert "Traceback" in (folder / "log.txt").read_text()
    assert list(read_record(folder / "record.json").arms) == ["good"]


def test_a_users_mistake_passes_through_and_is_logged(toy, tmp_path, monkeypatch):
    def fake(*args, **kwargs):
        raise BudgetError("too little noise")

    monkeypatch.setattr(runner, "run_pipeline", fake)
    with pytest.raises(BudgetError, match="too little noise"):
        run_claim(toy, "smoke", seed=0, out=tmp_path)
    assert "too little noise" in (tmp_path / "toy/smoke/seed0/log.txt").read_text()


def test_an_old_record_does_not_survive_a_new_run_that_fails(toy, tmp_path, calls, monkeypatch):
    run_claim(toy, "smoke", seed=0, out=tmp_path)
    monkeypatch.setattr(runner, "run_pipeline", lambda *a, **k: 1 / 0)
    with pytest.raises(RunFailedError):
        run_claim(toy, "smoke", seed=0, out=tmp_path)
    assert not (tmp_path / "toy/smoke/seed0/record.json").exists()


def test_a_second_process_is_kept_out_and_the_record_stays(toy, tmp_path, calls):
    run_claim(toy, "smoke", seed=0, out=tmp_path)
    folder = tmp_path / "toy/smoke/seed0"
    with runner.locked(folder), pytest.raises(RunFolderError, match="in use"):
        run_claim(toy, "smoke", seed=0, out=tmp_path)
    assert (folder / "record.json").exists()


def test_what_the_library_logs_goes_to_the_log_and_levels_are_restored(toy, tmp_path, monkeypatch):
    def fake(config, folder, *, shared, donor, progress, world):
        logging.getLogger("privimage.training").info("step 7")
        raise BudgetError("stop")

    monkeypatch.setattr(runner, "run_pipeline", fake)
    before = logging.getLogger("privimage").level
    with pytest.raises(BudgetError):
        run_claim(toy, "smoke", seed=0, out=tmp_path)
    assert "INFO privimage.training: step 7" in (tmp_path / "toy/smoke/seed0/log.txt").read_text()
    assert logging.getLogger("privimage").level == before
    assert not logging.getLogger("privimage").handlers


def test_wrong_settings_of_any_arm_are_found_before_anything_runs(tmp_path, toy_document, calls):
    toy_document["settings"]["smoke"]["arms"]["plain"] = {"selection.strategy": "best"}
    path = tmp_path / "toy" / "claim.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(toy_document))
    with pytest.raises(ConfigError, match=r"selection\.strategy is 'best'"):
        run_claim(load_claim(path), "smoke", seed=0, out=tmp_path / "runs")
    assert calls == []
    assert not (tmp_path / "runs").exists()


def test_the_planned_ledger_keeps_the_promise_and_asks_queries_only_where_they_are_used(toy):
    configs = resolve_arms(toy, "smoke", seed=0)
    events, epsilon = planned_ledger(configs["good"])
    assert [event["name"] for event in events] == ["semantic_query", "moments_query", "dp_sgd"]
    assert 9.9 < epsilon <= 10.0
    plain, _ = planned_ledger(configs["plain"])
    assert [event["name"] for event in plain] == ["moments_query", "dp_sgd"]


def test_the_record_is_plain_json(toy, tmp_path, calls):
    run_claim(toy, "smoke", seed=0, out=tmp_path)
    document = json.loads((tmp_path / "toy/smoke/seed0/record.json").read_text())
    assert document["format"] == 1
    assert document["insecure"] is False


def change_smoke(tmp_path, document, **changes):
    document["settings"]["smoke"] |= changes
    path = tmp_path / "toy" / "claim.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(document))
    return load_claim(path)


@pytest.fixture
def donors(monkeypatch, arm):
    """Replaces the pipeline; the donor that each arm got."""
    seen = {}

    def fake(config, folder, *, shared, donor, progress, world):
        seen[folder.name] = donor
        return arm(0.9)

    monkeypatch.setattr(runner, "run_pipeline", fake)
    return seen


def test_an_arm_takes_over_from_its_donor_in_the_same_run(tmp_path, toy_document, donors):
    claim = change_smoke(tmp_path, toy_document, donors={"plain": "good"})
    run_claim(claim, "smoke", seed=2, out=tmp_path / "runs")
    folder = tmp_path / "runs/toy/smoke/seed2"
    assert donors == {"good": None, "plain": Donor(folder / "good", "pretrained")}


def test_a_run_entered_later_takes_every_arm_from_the_given_folder(
    toy, tmp_path, donors, monkeypatch
):
    monkeypatch.setattr(Donor, "check", lambda donor: None)
    given = tmp_path / "theirs/seed0"
    run_claim(toy, "smoke", seed=0, out=tmp_path / "runs", source=Source("samples", given))
    shared = given / "shared"
    assert donors == {arm: Donor(given / arm, "samples", shared=shared) for arm in toy_arms(toy)}


def test_an_incomplete_folder_is_refused_before_any_work(toy, tmp_path, donors):
    source = Source("pretrained", tmp_path / "empty")
    with pytest.raises(DataMissingError, match="no finished stage query"):
        run_claim(toy, "smoke", seed=0, out=tmp_path / "runs", source=source)
    assert not donors
    assert not (tmp_path / "runs").exists()


def test_a_rehearsal_limits_the_stages_and_makes_the_rest_small(toy):
    configs = resolve_arms(toy, "smoke", seed=0, max_minutes=8)
    # two arms of four minutes: a quarter of that for each training
    assert {config.stage_seconds for config in configs.values()} == {60.0}
    assert {config.sampling.num_images for config in configs.values()} == {40}
    assert {config.stage_seconds for config in resolve_arms(toy, "smoke", seed=0).values()} == {
        None
    }


def test_absent_images_are_replaced_and_the_record_says_so(
    tmp_path, toy_document, monkeypatch, arm
):
    config = toy_document["settings"]["smoke"]["config"]
    config["data"] |= {"sensitive": "cifar10", "evaluate_on": "cifar10"}
    claim = change_smoke(tmp_path, toy_document, stand_ins={"cifar10": "digits"})
    used = []

    def fake(config, folder, *, shared, donor, progress, world):
        used.append((config.data.sensitive, config.data.public, config.data.evaluate_on))
        return arm(0.9)

    monkeypatch.setattr(runner, "run_pipeline", fake)
    monkeypatch.setattr(arms, "missing_assets", lambda names: dict.fromkeys(names, "fetch it"))
    record = run_claim(claim, "smoke", seed=0, out=tmp_path / "runs")
    assert set(used) == {("digits", "glyphs", "digits")}
    replaced = {"sensitive": "cifar10", "evaluate_on": "cifar10"}
    assert record.entry("good", "data.stands_in_for") == replaced
    monkeypatch.setattr(arms, "missing_assets", lambda names: {})
    record = run_claim(claim, "smoke", seed=1, out=tmp_path / "runs")
    assert record.entry("good", "data.stands_in_for") == {}
    assert used[-1] == ("cifar10", "glyphs", "cifar10")


def test_a_calculation_leaves_a_record_like_any_other(tmp_path, toy_document, monkeypatch):
    found = {"total": 2.0}
    monkeypatch.setitem(
        runner.CALCULATIONS, "sums", lambda out, seed: {"good": found | {"seed": float(seed)}}
    )
    smoke = toy_document["settings"]["smoke"]
    del smoke["config"]
    claim = change_smoke(tmp_path, toy_document, calculation="sums")
    record = run_claim(claim, "smoke", seed=3, out=tmp_path / "runs")
    assert read_record(tmp_path / "runs/toy/smoke/seed3/record.json") == record
    assert record.value("good", "metrics.total") == 2.0
    assert record.value("good", "metrics.seed") == 3.0
    assert not record.insecure


def test_an_unknown_calculation_is_named(tmp_path, toy_document):
    del toy_document["settings"]["smoke"]["config"]
    claim = change_smoke(tmp_path, toy_document, calculation="sums")
    with pytest.raises(ConfigError, match="calculation 'sums'; there are headline_averages"):
        run_claim(claim, "smoke", seed=0, out=tmp_path / "runs")


def toy_arms(claim):
    return claim.setting("smoke").arms
