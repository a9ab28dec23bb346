import json
import logging

import pytest
import yaml

from artifact import runner
from artifact.claims import load_claim
from artifact.exit_codes import RunFailedError
from artifact.records import read_record
from artifact.runner import planned_ledger, resolve_arms, run_claim, work_seconds
from privimage.errors import BudgetError, ConfigError, RunFolderError


@pytest.fixture
def calls(monkeypatch, arm):
    """Replaces the pipeline; the calls it got."""
    seen = []

    def fake(config, folder, *, shared, progress):
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
    def fake(config, folder, *, shared, progress):
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
    def fake(config, folder, *, shared, progress):
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
    with pytest.raises(ConfigError, match=r"selection\.strategy: 'best'"):
        run_claim(load_claim(path), "smoke", seed=0, out=tmp_path / "runs")
    assert calls == []
    assert not (tmp_path / "runs").exists()


def test_the_planned_ledger_keeps_the_promise_and_asks_the_query_only_where_it_is_used(toy):
    configs = resolve_arms(toy, "smoke", seed=0)
    events, epsilon = planned_ledger(configs["good"])
    assert len(events) == 2
    assert 9.9 < epsilon <= 10.0
    assert len(planned_ledger(configs["plain"])[0]) == 1


def test_the_record_is_plain_json(toy, tmp_path, calls):
    run_claim(toy, "smoke", seed=0, out=tmp_path)
    document = json.loads((tmp_path / "toy/smoke/seed0/record.json").read_text())
    assert document["format"] == 1
    assert document["insecure"] is False
