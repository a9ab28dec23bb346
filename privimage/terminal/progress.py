"""Progress of a run for people: live bars on a terminal, a line now and then elsewhere.

The pipeline may call as often as it likes; updates are spaced here. Goes to stderr, so that
stdout holds results only.
"""

import sys
import time
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

from privimage.terminal.plain_text import printable

HEARTBEAT_SECONDS = 10.0
REFRESH_SECONDS = 0.2


class StageProgress:
    """Call it with (stage, done, total); use it as a context. `stream` is a text file."""

    def __init__(self, *, stream: Any = None) -> None:
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
            self._task = self._bars.add_task(_title(stage), total=max(total, 1))

    def _show(self, done: int, total: int, seconds: float) -> None:
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=min(done, total) if total else 1)
            return
        share = done / total if total else 1.0
        known = seconds >= 1 and 0 < share < 1
        left = f", about {seconds / share - seconds:.0f} s left" if known else ""
        title = _title(self._stage or "")
        line = f"{title}: {done}/{total} ({share:.0%}), {seconds:.0f} s{left}"
        self._stream.write(line + "\n")
        self._stream.flush()


def _title(stage: str) -> str:
    return printable(stage.replace("_", " "))


def _bars(stream: Any) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
