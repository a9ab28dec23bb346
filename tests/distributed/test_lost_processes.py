"""A process that is killed stops the others; torchrun starts all again, and the run continues."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifact.claims.arms import resolve_arms
from artifact.claims.registry import find_claim
from privimage.privacy.rng import secure_source
from privimage.run_folder.budget import privacy_plan
from tests.survival.killed_runs import check_books

ROOT = Path(__file__).parents[2]
NUM_KILLS = 10


def ranks(out):
    """Process number of each rank that works for this run, by what the kernel tells of it."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode()
            environment = (folder / "environ").read_bytes().decode(errors="ignore")
        except OSError:
            continue
        rank = re.search(r"\0RANK=(\d+)\0", "\0" + environment)
        if rank and str(out) in command:
            found[int(rank[1])] = int(folder.name)
    return found


def expected_ledger(config, data_id):
    """What one process would have written."""
    plan = privacy_plan(config)
    ledger = plan.open_ledger(None, data_id=data_id, random_source=secure_source())
    for name, mechanism in plan.mechanisms.items():
        ledger.reserve(name, mechanism)
        ledger.charge(name, mechanism.count)
    return ledger.to_dict()


@pytest.mark.cluster
@pytest.mark.timeout(3000)
def test_the_demo_on_two_processes_passes_though_either_is_killed_ten_times(tmp_path):
    out, generator = tmp_path / "runs", random.Random(0)
    command = [sys.executable, "-m", "artifact", "run", "kick_the_tires", "--gpus", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed, statuses = [], []
    while not statuses or statuses[-1]:
        assert len(statuses) <= NUM_KILLS
        with (tmp_path / "log.txt").open("a") as log:
            run = subprocess.Popen(
                [*command, "--out", str(out)], env=environment, cwd=ROOT, stdout=log, stderr=log
            )
        while run.poll() is None:
            time.sleep(generator.uniform(12, 25))
            workers = ranks(out)
            if len(killed) < NUM_KILLS and len(workers) == 2:
                rank = generator.randrange(2)
                os.kill(workers[rank], signal.SIGKILL)
                killed.append(rank)
                for arm in (out / "kick_the_tires" / "smoke" / "seed0").glob("*"):
                    check_books(arm)
        statuses.append(run.wait())
    said = (tmp_path / "log.txt").read_text()
    assert "PASS" in said.splitlines()[-3], said[-2000:]
    assert len(killed) == NUM_KILLS
    assert {0, 1} == set(killed)
    folder = out / "kick_the_tires" / "smoke" / "seed0"
    lost = 0
    for arm, config in resolve_arms(find_claim("kick_the_tires"), "smoke", seed=0).items():
        ledger = json.loads((folder / arm / "ledger.json").read_text())
        assert ledger == expected_ledger(config, ledger["data_id"])
        steps = json.loads((folder / arm / "finetune.json").read_text())
        lost += steps["steps_charged"] - steps["steps_taken"]
    print(f"{len(killed)} kills of ranks {killed}, {len(statuses)} commands, {lost} steps lost")
