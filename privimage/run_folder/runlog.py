"""What a run tells: `stats.jsonl` for machines, log lines for people, and a progress call for
whoever watches.

Only public or already noised values are written: losses of public images, norms of noisy
gradients, never a loss of private images. `stats.jsonl` may be published, so there is no clock in
it, neither as a reading nor as what decides when a line is due: a step of DP-SGD lasts as long as
its private sample is large.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from privimage.errors import RunFolderError

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def silent(stage: str, done: int, total: int) -> None:
    """For callers who do not watch the progress."""


Observer = Callable[[int, dict[str, Tensor]], None]  # (step of DP-SGD, noisy mean gradient)


def unobserved(step: int, gradient: dict[str, Tensor]) -> None:
    """For callers who do not watch the releases."""


MAX_LINES = 200  # a stage, about
Stop = Callable[[], bool]  # asked before every step; True ends a training early


def never() -> bool:
    """For callers who let a training finish."""
    return False


def after(seconds: float | None) -> Stop:
    """True once `seconds` have passed from now; `never` without a limit."""
    if seconds is None:
        return never
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


class RunLog:
    """Appends one JSON line a report to `stats.jsonl`, at steps that public numbers alone fix."""

    def __init__(self, path: Path | None, *, stage: str) -> None:
        self.path, self.stage = path, stage

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether this step of so many (counted from 1) is to be told: first, last, every n-th."""
        return step in (1, num_steps) or step % -(-num_steps // MAX_LINES) == 0

    def write(self, *, step: int, images: int, **values: float) -> None:
        line = {"stage": self.stage, "step": step, "images": images, **values}
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
