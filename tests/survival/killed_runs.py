"""Runs of the pipeline in processes of their own, which a test may kill at any moment.

The processes come from a server that has loaded the library once, so that a start costs little.
Each reports its progress through a pipe, and its last words if it ended by itself.
"""

import json
import multiprocessing
import os
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from privimage.machine.launch import stopped_by_sigterm
from privimage.run_folder.checkpoint import Checkpoint
from privimage.run_folder.manifest import read
from privimage.settings.config import load_config
from privimage.stages.order import STAGES
from privimage.stages.pipeline import run_pipeline

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.survival.killed_runs"])
Event = tuple[str, int]  # (stage, done)


@dataclass
class Limits:
    """What a process may use after it has reported `since`: bytes a file, bytes of memory."""

    since: str = ""
    file_bytes: int | None = None
    more_memory_bytes: int | None = None


@dataclass
class Outcome:
    """What a process reported until its end, with the time of each event."""

    events: list[tuple[float, Event]] = field(default_factory=list)
    error: str | None = None
    finished: bool = False

    @property
    def stages(self) -> set[str]:
        return {stage for _, (stage, _) in self.events}


def work(settings: dict[str, Any], folder: Path, limits: Limits, pipe: Any) -> None:
    """The body of a process."""
    torch.set_num_threads(1)

    is_limited = not limits.since

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal is_limited
        if stage == limits.since and not is_limited:
            limit(limits)
            is_limited = True
        pipe.send((stage, done))

    if is_limited:
        limit(limits)
    try:
        with stopped_by_sigterm():
            run_pipeline(load_config(settings), folder, progress=tell)
        pipe.send(("finished", 0))
    except BaseException as error:
        pipe.send((f"error {type(error).__name__}: {error}", 0))


def limit(limits: Limits) -> None:
    if limits.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that is too long fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    if limits.more_memory_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + limits.more_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run_until(
    settings: dict[str, Any],
    folder: Path,
    *,
    event: Event | None = None,
    delay: float = 0.0,
    signal_number: int = signal.SIGKILL,
    limits: Limits | None = None,
) -> Outcome:
    """Run until `delay` seconds after `event`, or a later one, and then send the signal; without
    an event to the end.
    """
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(settings, folder, limits or Limits(), theirs))
    process.start()
    theirs.close()
    outcome, started, due = Outcome(), time.monotonic(), None
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        if ours.poll(wait):
            try:
                stage, done = ours.recv()
            except EOFError:
                break
            if stage == "finished":
                outcome.finished = True
            elif stage.startswith("error "):
                outcome.error = stage
            else:
                outcome.events.append((time.monotonic() - started, (stage, done)))
                if due is None and event is not None and _order((stage, done)) >= _order(event):
                    due = time.monotonic() + delay
        if due is not None and time.monotonic() >= due and process.pid is not None:
            os.kill(process.pid, signal_number)
            due, event = None, None
    process.join()
    return outcome


def _order(event: Event) -> tuple[int, int]:
    return [stage.name for stage in STAGES].index(event[0]), event[1]


def check_books(folder: Path) -> None:
    """What lies in the folder never rests on more than its ledger has been charged for."""
    path = folder / "ledger.json"
    if not path.exists():
        assert not (folder / "query" / "answer.json").exists()
        return
    events = {event["name"]: event for event in json.loads(path.read_text())["events"]}
    charged = {name: event["charged"] for name, event in events.items()}
    if (folder / "query" / "answer.json").exists():
        assert charged["semantic_query"] == 1
    inputs = (read(folder, "finetune") or {}).get("inputs")
    state = Checkpoint(
        folder / "checkpoints" / "finetune" / "finetune.pt", belongs_to=inputs
    ).load()
    if state is not None:
        assert state["taken"] <= state["charged"] <= charged["dp_sgd"]
    if (folder / "stats.jsonl").exists():
        for row in (folder / "stats.jsonl").read_text().splitlines():
            if '"finetune"' in row and row.endswith("}"):
                assert json.loads(row)["step"] <= charged["dp_sgd"]
