"""A process that stands still in the midst of fine-tuning: waited for, but not for ever."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from privimage.errors import PeerLostError
from privimage.settings.config import load_config
from tests.distributed.processes import in_processes, start
from tests.distributed.test_lost_processes import expected_ledger
from tests.survival.killed_runs import check_books
from tests.survival.test_kills import check_record

STEPS, STOPPED_AT = 8, 3
PATIENCE_SECONDS = 8.0  # of the processes
GRACE_SECONDS = 15.0  # what a busy machine may add
LEADER, FOLLOWER = pytest.param(0, id="leader"), pytest.param(1, id="follower")


@pytest.fixture
def settings(toy_settings):
    toy_settings["privacy"]["num_steps"] = STEPS
    return toy_settings


@pytest.fixture
def begin(settings, tmp_path):
    """Starts two processes and waits until `who` of them has stopped; that one, and the other."""
    started = []

    def begin(who, *, timeout_seconds):
        started.extend(
            start(
                *("run_that_stops", 2, settings, tmp_path, who, STOPPED_AT),
                timeout_seconds=timeout_seconds,
            )
        )
        stat, end = Path(f"/proc/{started[who].process.pid}/stat"), time.monotonic() + 120
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < end
            time.sleep(0.02)
        return started[who], started[1 - who]

    yield begin
    for each in started:
        each.process.kill()
        each.process.join()


@pytest.mark.parametrize("who", [LEADER, pytest.param(1, id="follower", marks=pytest.mark.slow)])
def test_a_process_that_stops_for_a_while_is_waited_for(begin, settings, tmp_path, who):
    stopped, other = begin(who, timeout_seconds=60)
    assert not other.pipe.poll(1.5)
    assert not (tmp_path / "record.json").exists()
    os.kill(stopped.process.pid, signal.SIGCONT)
    for each in (stopped, other):
        assert isinstance(each.pipe.recv(), dict)
        each.process.join()
    assert check_record(tmp_path, steps=STEPS) == STEPS
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert ledger == expected_ledger(load_config(settings), ledger["data_id"])


@pytest.mark.slow
@pytest.mark.parametrize("who", [LEADER, FOLLOWER])
def test_a_process_that_stops_for_too_long_ends_the_other_and_the_run_continues(
    begin, settings, tmp_path, who
):
    stopped, other = begin(who, timeout_seconds=PATIENCE_SECONDS)
    assert other.pipe.poll(PATIENCE_SECONDS + GRACE_SECONDS)
    error = other.pipe.recv()
    assert isinstance(error, PeerLostError)
    assert "repeat the command: it continues from the last saved state" in str(error)
    other.process.join(GRACE_SECONDS)
    assert other.process.exitcode == 0  # it does not hang when it leaves
    os.kill(stopped.process.pid, signal.SIGKILL)
    stopped.process.join()
    check_books(tmp_path)

    in_processes("whole_run", 2, settings, tmp_path)
    taken = check_record(tmp_path, steps=STEPS)
    # the step under way is lost, and those since the last state; the first step's was saved
    assert STEPS - STOPPED_AT <= taken < STEPS
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert ledger == expected_ledger(load_config(settings), ledger["data_id"])
