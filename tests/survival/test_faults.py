"""No space, no memory, SIGTERM, a clock that jumps: a clear message, and nothing is lost."""

import ast
import signal
from pathlib import Path

import pytest

from tests.survival.killed_runs import Limits, check_books, run_until
from tests.survival.test_kills import check_record, hashes

PRIVIMAGE = Path(__file__).parents[2] / "privimage"


SEEDED = {"insecure_for_reproduction": True, "num_steps": 6}


@pytest.fixture
def settings(toy_settings):
    toy_settings["privacy"] |= SEEDED
    return toy_settings


@pytest.fixture(scope="module")
def whole(toy_mapping, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    seeded = toy_mapping | {"privacy": toy_mapping["privacy"] | SEEDED}
    assert run_until(seeded, folder).finished
    return hashes(folder)


def test_a_full_disk_is_said_and_the_run_continues_when_there_is_space(settings, tmp_path, whole):
    folder = tmp_path / "run"
    for since in ("", "pretrain", "finetune", "evaluate"):  # each time a little further
        outcome = run_until(settings, folder, limits=Limits(since=since, file_bytes=300))
        assert outcome.error is not None, since
        assert outcome.error.startswith("error RunFolderError: cannot write")
        assert "free some space and repeat the command" in outcome.error
        assert not since or since in outcome.stages
        check_books(folder)
        assert not (folder / "record.json").exists()
    assert run_until(settings, folder).finished
    assert hashes(folder) == whole
    check_record(folder, steps=6)


def test_memory_that_runs_out_is_said_and_the_run_continues(settings, tmp_path):
    # a batch of 2,048 images needs above a hundred MiB
    settings["pretrain"] |= {"num_images": 4096, "batch_size": 2048}
    folder = tmp_path / "run"
    limits = Limits(since="query", more_memory_bytes=32 * 2**20)
    outcome = run_until(settings, folder, limits=limits)
    assert outcome.error is not None
    assert outcome.error.startswith("error MemoryRanOutError: memory ran out in stage pretrain")
    assert "repeat the command" in outcome.error
    check_books(folder)
    assert run_until(settings, folder).finished
    check_record(folder, steps=6)


def test_sigterm_ends_a_run_that_continues(settings, tmp_path, whole):
    folder = tmp_path / "run"
    for stage in ("query_network", "pretrain", "finetune", "evaluate"):
        outcome = run_until(settings, folder, event=(stage, 1), signal_number=signal.SIGTERM)
        assert not outcome.finished
        assert outcome.error is not None, stage
        assert outcome.error.startswith("error Terminated")
        assert stage in outcome.stages
        check_books(folder)
    assert run_until(settings, folder).finished
    assert hashes(folder) == whole
    check_record(folder, steps=6)


def test_no_decision_of_the_library_rests_on_the_wall_clock():
    # a clock that jumps can then do no harm; dates are written into records, and read by nobody
    for path in PRIVIMAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "time"), path
                if node.attr in ("now", "utcnow", "today"):
                    assert path.name in ("environment.py", "array_writer.py"), path
