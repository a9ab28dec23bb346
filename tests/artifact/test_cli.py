import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from artifact import cli
from artifact.claims import doctor as environment
from artifact.claims import runner
from artifact.claims.records import write_record
from artifact.exit_codes import ExitCode
from artifact.judging.expected import load_expected
from artifact.machine.gpu import GpuSurvey
from artifact.machine.torch_build import TorchBuild
from privimage.errors import DataMissingError
from privimage.gradients.engine import Engine
from privimage.stages import estimate

TORCH = TorchBuild(version="2.9.0")


@pytest.fixture
def artifact(artifact, toy, tmp_path, monkeypatch):
    """The same in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "survey_gpus", lambda: GpuSurvey(problem="no driver"))
    monkeypatch.setattr(environment, "probe_torch", lambda: TORCH)

    return artifact


@pytest.fixture
def pipeline(monkeypatch, arm):
    def fake(config, folder, *, shared, donor, progress, world):
        progress("pretrain", 2, 2)
        return arm(0.9 if config.selection.strategy == "semantic" else 0.5)

    monkeypatch.setattr(runner, "run_pipeline", fake)


def test_without_a_command_the_first_steps_are_shown(artifact):
    code, out, _ = artifact()
    assert code == 0
    assert "artifact run kick_the_tires --setting smoke" in out


def test_a_run_ends_with_its_verdict_and_code_zero_even_if_inconclusive(artifact, pipeline):
    code, out, err = artifact("run", "toy", "--out", "runs")
    assert code == 0
    assert "INCONCLUSIVE" in out
    assert "runs/report.html" in out
    assert "pretrain: 2/2" in err


def test_run_expect_compare_and_report_work_together(artifact, pipeline, toy):
    for seed in range(5):
        assert artifact("run", "toy", "--seed", str(seed))[0] == 0
    code, out, _ = artifact("compare", "toy")
    assert code == ExitCode.INCONCLUSIVE
    assert artifact("expect", "toy", "--records", "runs")[0] == 0
    assert load_expected(toy)["smoke"].seeds == (0, 1, 2, 3, 4)
    code, out, _ = artifact("compare", "toy", "--seed", "1", "--seed", "2")
    assert code == 0
    assert "seeds 1, 2" in out
    code, out, _ = artifact("report")
    assert (code, out.splitlines()) == (
        0,
        ["runs/report.html", "runs/report.md", "runs/committee.html"],
    )
    assert "prediction interval" in artifact("show", "toy")[1]


@pytest.fixture
def expected(artifact, pipeline):
    """What the toy's own five runs make of it: good 0.9, plain 0.5."""
    for seed in range(5):
        artifact("run", "toy", "--seed", str(seed))
    artifact("expect", "toy", "--records", "runs")


def test_a_mismatch_exits_with_one(artifact, expected, record, tmp_path):
    write_record(tmp_path / "other/toy/smoke/seed0/record.json", record(good=0.3))
    code, out, _ = artifact("compare", "toy", "--out", "other")
    assert code == ExitCode.MISMATCH
    assert "FAIL" in out


@pytest.mark.parametrize(
    ("good", "code", "verdict"), [(0.3, 1, "FAIL"), (0.7, 1, "TREND"), (0.9, 0, "PASS")]
)
def test_a_run_exits_as_compare_does_on_its_record(
    artifact, expected, arm, monkeypatch, good, code, verdict
):
    def fake(config, folder, **options):
        return arm(good if config.selection.strategy == "semantic" else 0.5)

    monkeypatch.setattr(runner, "run_pipeline", fake)
    found, out, _ = artifact("run", "toy", "--seed", "7", "--out", "other")
    assert (found, verdict in out) == (code, True)
    assert "other/report.html" in out  # it says how to read on, whatever the verdict
    assert artifact("compare", "toy", "--seed", "7", "--out", "other")[0] == code
    record = "other/toy/smoke/seed7/record.json"
    assert artifact("run", "toy", "--from", "records", "--files", record)[0] == code


def test_records_that_decide_nothing_exit_as_compare_does_for_nothing_ran(artifact, pipeline):
    assert artifact("run", "toy")[0] == 0
    found = artifact(
        "run", "toy", "--from", "records", "--files", "runs/toy/smoke/seed0/record.json"
    )
    assert found[0] == artifact("compare", "toy")[0] == ExitCode.INCONCLUSIVE


def test_the_help_of_run_and_compare_says_what_their_exit_codes_mean(artifact):
    for command in ("run", "compare"):
        code, out, _ = artifact(command, "--help")
        assert code == 0
        for word in ("Exit code", "FAIL", "TREND", "INCONCLUSIVE"):
            assert word in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "tooy"], 2, "error: no claim 'tooy'"),
        (["run", "toy", "--setting", "huge"], 2, "error: toy has no setting 'huge'"),
        (["report", "--out", "nowhere"], 2, "error: nowhere is not there"),
        (["expect", "toy", "--records", "nowhere"], 2, "error: 0 complete records"),
        (["run", "toy", "--seed", "-1"], 2, "seed"),
        (["run", "toy", "--gpu"], 2, "--gpu"),
    ],
)
def test_mistakes_of_usage_exit_with_two(artifact, arguments, code, message):
    found, out, err = artifact(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_missing_data_exits_with_four_and_one_line(artifact, monkeypatch):
    def fake(*args, **kwargs):
        raise DataMissingError("cifar10 is not in\n/data; put it there")

    monkeypatch.setattr(runner, "run_pipeline", fake)
    code, _, err = artifact("run", "toy")
    assert code == ExitCode.DATA_MISSING
    assert err.splitlines()[-1] == "error: cifar10 is not in /data; put it there"


def test_a_defect_in_a_run_exits_with_five_and_names_the_log(artifact, monkeypatch):
    monkeypatch.setattr(runner, "run_pipeline", lambda *a, **k: 1 / 0)
    code, _, err = artifact("run", "toy")
    assert code == ExitCode.RUN_FAILED
    assert "runs/toy/smoke/seed0/log.txt" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_defect_elsewhere_does_not_look_like_a_mismatch(artifact, monkeypatch):
    monkeypatch.setattr(cli, "load_claims", lambda: 1 / 0)
    code, _, err = artifact("list")
    assert code == ExitCode.RUN_FAILED
    assert "ZeroDivisionError" in err


def test_an_interrupted_run_says_how_to_go_on(artifact, monkeypatch):
    def fake(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_pipeline", fake)
    code, _, err = artifact("run", "toy")
    assert (code, "same command continues" in err) == (130, True)


def test_sigterm_stops_a_run_like_ctrl_c_with_a_code_of_its_own(artifact, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(runner, "run_pipeline", lambda *a, **k: signal.raise_signal(signal.SIGTERM))
    code, _, err = artifact("run", "toy")
    assert (code, "same command continues" in err) == (143, True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_machine_that_lacks_what_a_setting_needs_exits_with_three(
    artifact, pipeline, monkeypatch
):
    monkeypatch.setattr(environment, "available_ram_bytes", lambda: 1000)
    code, _, err = artifact("run", "toy")
    assert code == ExitCode.ENVIRONMENT_UNFIT
    assert "GiB of memory" in err
    assert artifact("doctor")[0] == ExitCode.ENVIRONMENT_UNFIT
    assert artifact("run", "toy", "--force")[0] == 0


def test_a_dry_run_prints_settings_ledger_and_time_and_writes_nothing(
    artifact, tmp_path, monkeypatch
):
    monkeypatch.setattr(estimate, "SECONDS", 0.05)
    monkeypatch.setattr(estimate, "usable_cores", lambda: 1)
    monkeypatch.setattr(estimate, "choose_engine", lambda *args, **named: Engine("loop"))
    code, out, _ = artifact("run", "toy", "--dry-run")
    assert code == 0
    assert "noise_multiplicity: 4" in out
    assert "ledger of arm plain" in out
    assert "#   arm plain: " in out
    assert "listed: " in out
    assert not (tmp_path / "runs").exists()


def test_doctor_speaks_to_people_and_to_machines(artifact):
    code, out, _ = artifact("doctor")
    assert (code, "toy/smoke" in out) == (0, True)
    code, out, _ = artifact("doctor", "--json")
    document = json.loads(out)
    assert document["settings"][0]["state"] == "OK"
    assert {f["name"] for f in document["findings"]} >= {"Python", "torch", "GPU", "disk"}


def test_list_shows_time_with_its_basis(artifact):
    code, out, _ = artifact("list")
    assert code == 0
    assert "2 min †" in out
    assert "a laptop" in out


def test_verbose_sends_the_log_to_stderr_as_well(artifact, pipeline, monkeypatch):
    asked = {}
    monkeypatch.setattr(cli.logging, "basicConfig", lambda **options: asked.update(options))
    artifact("run", "toy", "--verbose")
    assert asked["level"] == cli.logging.INFO


def test_commands_that_only_read_do_not_import_torch_or_pydantic():
    program = "import sys, artifact.cli; sys.exit(bool({'torch', 'pydantic'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


HOSTILE = "x\x1b[31m\u202e\b[/x][bold]"
SHOWN = r"x\x1b[31m\u202e\x08[/x][bold]"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "toy", "--out", HOSTILE), 0),
        (("run", "toy", "--out", HOSTILE, "--gpus", "0"), 2),
        (("run", HOSTILE), 2),
        (("run", "toy", "--setting", HOSTILE), 2),
        (("run", "toy", "--from", HOSTILE), 2),
        (("run", "toy", "--from", "samples", "--files", HOSTILE), 4),
        (("run", "toy", HOSTILE), 2),
        (("run", "toy", "--" + HOSTILE), 2),
        ((HOSTILE,), 2),
        (("doctor", "--out", HOSTILE), 0),
        (("report", "--out", HOSTILE), 2),
        (("expect", "toy", "--records", HOSTILE), 2),
        (("fetch", HOSTILE), 2),
        (("fetch", "cifar10", "--from", HOSTILE), 2),
    ],
)
def test_what_was_typed_is_shown_as_text(artifact, pipeline, arguments, code):
    found, out, err = artifact(*arguments)
    assert found == code
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert "\x1b" not in out + err
    if "--gpus" not in arguments and "expect" not in arguments:
        assert SHOWN in "".join((out + err).split("\n"))
    if code:
        assert err.splitlines()[-1].startswith("error: ")
        assert out == ""


def test_a_claim_of_a_stranger_is_shown_as_text(artifact, toy, toy_document, pipeline, monkeypatch):
    toy_document["title"] = toy_document["statement"] = HOSTILE
    toy_document["settings"]["smoke"]["compute_minutes"]["hardware"] = HOSTILE
    path = Path(os.environ["PRIVIMAGE_CLAIMS"]) / "toy" / "claim.yaml"
    arms = toy_document["settings"]["smoke"]["arms"]
    commands = (("list",), ("show", "toy"), ("run", "toy", "--dry-run"))
    path.write_text(yaml.safe_dump(toy_document))
    shown = [artifact(*command) for command in commands[:2]]
    arms[HOSTILE] = arms["plain"]  # that can name no folder
    path.write_text(yaml.safe_dump(toy_document))
    refused = [artifact(*command) for command in commands]
    assert [code for code, _, _ in shown + refused] == [0, 0, 2, 2, 2]
    for command, (_, out, err) in zip(commands[:2] + commands, shown + refused, strict=True):
        assert SHOWN in "".join((out + err).split("\n")) or command == ("list",)
        assert all(line.isprintable() for line in (out + err).splitlines())


def test_the_message_of_a_defect_is_text(artifact, monkeypatch):
    def broken():
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(cli, "load_claims", broken)
    code, _, err = artifact("list")
    assert code == ExitCode.RUN_FAILED
    assert err.splitlines()[-1] == f"RuntimeError: {SHOWN}"
