import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from privimage.errors import ConfigError, PeerLostError
from privimage.machine import launch as module
from privimage.machine.launch import Terminated, launch, stopped_by_sigterm

WORKER = """
import os, sys, time
from pathlib import Path
folder, status, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
(folder / str(os.getpid())).write_text(os.environ["RANK"])
time.sleep(seconds)
sys.exit(status)
"""


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """A module to launch, and the folder where each process leaves a file: its id, its rank."""
    (tmp_path / "starts").mkdir()
    (tmp_path / "a_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "starts"


def test_every_process_gets_the_arguments_and_a_rank(starts):
    launch("a_worker", 2, [str(starts), "0", "0"])
    assert sorted(path.read_text() for path in starts.iterdir()) == ["0", "1"]


def test_processes_that_fail_are_started_again_and_then_it_is_said(starts, monkeypatch):
    monkeypatch.setattr(module, "MAX_RESTARTS", 1)
    with pytest.raises(PeerLostError, match="2 processes ended with status 1") as caught:
        launch("a_worker", 2, [str(starts), "7", "1"])
    assert caught.value.exit_code == 5
    assert sorted(path.read_text() for path in starts.iterdir()) == ["0", "0", "1", "1"]


def test_sigterm_ends_all_processes(starts):
    def stop():
        end = time.monotonic() + 60
        while len(list(starts.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Terminated), stopped_by_sigterm():
        launch("a_worker", 2, [str(starts), "0", "600"])
    thread.join()
    workers = [path.name for path in starts.iterdir()]
    assert len(workers) == 2
    assert not any((Path("/proc") / worker).exists() for worker in workers)


def test_more_processes_than_gpus_are_refused(starts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--gpus 2, and PyTorch sees 1 here; ask for at most 1"):
        launch("a_worker", 2, [str(starts), "0", "0"])
    assert not list(starts.iterdir())
