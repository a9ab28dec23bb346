"""Progress of a run for people: live bars on a terminal, a line now and then elsewhere.

The pipeline may call as often as it likes; updates are spaced here. Goes to stderr, so that
stdout holds results only.
"""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from privimage.machine.terminal.plain_text import printable

HEARTBEAT_SECONDS = 10.0
REFRESH_SECONDS = 0.2


class StageProgress:
    """Call it with (stage, done, total); use it as a context. `stream` is a text file.

    `expected` is the seconds of every stage, in their order, as they were estimated before: with
    them the time left of the whole run is told as well.
    """

    def __init__(self, *, stream: Any = None, expected: Mapping[str, float] | None = None) -> None:
        self._expected = dict(expected or {})
        self._stream = stream or sys.stderr
        self._stage: str | None = None
        self._started = self._shown = time.monotonic()
        self._bars = _bars(self._stream) if self._stream.isatty() else None
        self._task: TaskID | None = None

    def __enter__(self) -> "StageProgress":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        is_new = stage != self._stage
        if is_new:
            self._begin(stage, total, now)
        interval = REFRESH_SECONDS if self._bars else HEARTBEAT_SECONDS
        if is_new or done >= total or now - self._shown >= interval:
            self._shown = now
            self._show(done, total, now - self._started)

    def _begin(self, stage: str, total: int, now: float) -> None:
        self._stage, self._started = stage, now
        if self._bars:
            self._task = self._bars.add_task(_title(stage), total=max(total, 1), whole="")

    def _show(self, done: int, total: int, seconds: float) -> None:
        share = done / total if total else 1.0
        known = seconds >= 1 and 0 < share < 1
        left = seconds / share - seconds if known else None
        whole = self._whole_left(share, left)
        if self._bars and self._task is not None:
            done = min(done, total) if total else 1
            self._bars.update(self._task, completed=done, whole=whole)
            return
        of_stage = "" if left is None else f", about {left:.0f} s left"
        title = _title(self._stage or "")
        of_run = f"; {whole}" if whole else ""
        line = f"{title}: {done}/{total} ({share:.0%}), {seconds:.0f} s{of_stage}{of_run}"
        self._stream.write(line + "\n")
        self._stream.flush()

    def _whole_left(self, share: float, left_of_stage: float | None) -> str:
        """What is left of the run: of this stage by its own pace, of later ones as estimated."""
        if self._stage not in self._expected:
            return ""
        later = list(self._expected.values())[list(self._expected).index(self._stage) + 1 :]
        if left_of_stage is None:
            left_of_stage = (1 - share) * self._expected[self._stage]
        return f"whole run: about {duration(left_of_stage + sum(later))} left"


def duration(seconds: float) -> str:
    """For people, with two digits: 40 s, 3 min, 2.5 h, 3.1 days."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            digits = 1 if seconds < 10 * size and unit != "min" else 0
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _title(stage: str) -> str:
    return printable(stage.replace("_", " "))


def _bars(stream: Any) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[whole]}", markup=False),
        console=Console(file=stream),
    )
