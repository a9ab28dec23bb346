"""What a run tells: `stats.jsonl` for machines, log lines for people, and a progress call for
whoever watches.

Only public or already noised values are written: losses of public images, norms of noisy
gradients, never a loss of private images.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from privimage.errors import RunFolderError

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def silent(stage: str, done: int, total: int) -> None:
    """The progress call of someone who does not watch."""


Stop = Callable[[], bool]  # asked before every step; True ends a training early


def never() -> bool:
    """The answer of someone who lets a training finish."""
    return False


def after(seconds: float | None) -> Stop:
    """True once `seconds` have passed from now; `never` without a limit."""
    if seconds is None:
        return never
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


class RunLog:
    """Appends one JSON line a report to `stats.jsonl`; reports of one stage are spaced in time."""

    def __init__(self, path: Path | None, *, stage: str, interval_seconds: float = 1.0) -> None:
        self.path, self.stage, self.interval = path, stage, interval_seconds
        self.started = time.monotonic()
        self.last = -float("inf")

    def is_due(self) -> bool:
        return time.monotonic() - self.last >= self.interval

    def write(self, *, step: int, images: int, **values: float) -> None:
        self.last = time.monotonic()
        line = {
            "stage": self.stage,
            "step": step,
            "images": images,
            "seconds": round(self.last - self.started, 3),
            **values,
        }
        if self.path is not None:
            _append(self.path, json.dumps(line) + "\n")


def _append(path: Path, line: str) -> None:
    """A line of its own, also after one that a killed process left unfinished."""
    try:
        with path.open("ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line
            file.write(line.encode())
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path} ({error.strerror}); free some space and repeat the command"
        ) from error
