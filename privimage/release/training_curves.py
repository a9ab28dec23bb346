"""`stats.jsonl`, read again, and its curves as an SVG that a page can draw.

All of it is public: losses of public images, and the norm of the noisy gradient in fine-tuning,
which is released through the ledger. There is no loss of private images to draw.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privimage.files.plain_files import read_bounded

Lines = list[dict[str, Any]]
PANELS = (  # stage, entry, title; one panel each
    ("query_network", "loss", "Query network: loss on public images"),
    ("pretrain", "loss", "Pre-training: loss on public images"),
    ("finetune", "noisy_gradient_norm", "DP fine-tuning: norm of the noisy gradient"),
)
LEFT, RIGHT, TOP, BOTTOM = 54.0, 312.0, 12.0, 150.0  # the drawn area, in units of the SVG
AXIS = {"left": LEFT, "right": RIGHT, "bottom": BOTTOM}
MOST_POINTS = 400  # of a curve; more than this many nobody sees
MOST_TICKS = 5
MOST_STEPS, SMALLEST = 10**12, 1e-200  # what of a stranger's numbers is drawn
SMALLEST_RANGE = 1.5  # of the axis, largest over smallest value: else noise looks like a trend


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One panel. Positions are in units of the SVG; values go up on a logarithmic axis."""

    title: str
    path: str  # of an SVG path element
    ticks: list[tuple[float, str]]  # position and label
    last_step: int
    summary: str  # the same in words, for people who do not see it


def read_stats(path: Path) -> Lines:
    """The lines of `stats.jsonl` that can be read; a stage that was resumed is joined up.

    A run that stopped may have reported steps that were done again: the later report counts.
    """
    stages: dict[str, Lines] = {}
    try:
        text = read_bounded(path).decode()
    except (OSError, UnicodeDecodeError):
        return []
    for row in text.splitlines():
        try:
            line = json.loads(row)
            stage, step = line["stage"], line["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a run that was killed may be cut off
        if type(stage) is not str or type(step) is not int or not 0 < step < MOST_STEPS:
            continue
        told = stages.setdefault(stage, [])
        while told and told[-1]["step"] >= step:
            told.pop()
        told.append(line)
    return [line for told in stages.values() for line in told]


def points(lines: Lines, stage: str, entry: str) -> list[tuple[int, float]]:
    """Step and value of each report of a stage, as far as a logarithmic axis can show it."""
    found: list[tuple[int, float]] = []
    for line in lines:
        value = line.get(entry) if line["stage"] == stage else None
        if isinstance(value, (int, float)) and SMALLEST < value < 1 / SMALLEST:
            found.append((line["step"], value))
    return found


def training_curves(lines: Lines) -> list[Curve]:
    """A curve for each stage that reported."""
    found = [(title, points(lines, stage, entry)) for stage, entry, title in PANELS]
    return [_curve(title, told) for title, told in found if told]


def _curve(title: str, told: list[tuple[int, float]]) -> Curve:
    values = [value for _, value in told]
    low, high = _range(min(values), max(values))
    scale = (BOTTOM - TOP) / math.log(high / low)

    def height(value: float) -> float:
        return round(BOTTOM - math.log(value / low) * scale, 1)

    first, last = told[0], told[-1]
    shown = told[:: -(-len(told) // MOST_POINTS)]
    shown += [last] * (shown[-1] != last)
    width = (RIGHT - LEFT) / max(1, last[0] - first[0])
    path = " ".join(f"{LEFT + (s - first[0]) * width:.1f},{height(v)}" for s, v in shown)
    return Curve(
        title=title,
        path=f"M{path}",
        ticks=[(height(tick), f"{tick:.3g}") for tick in _ticks(low, high)],
        last_step=last[0],
        summary=f"{title}: from {first[1]:.3g} at step {first[0]} to {last[1]:.3g} at {last[0]}",
    )


def _range(low: float, high: float) -> tuple[float, float]:
    """The ends of the axis: a little more than the values need."""
    more = max(1.05, math.sqrt(SMALLEST_RANGE * low / high))
    return low / more, high * more


def _ticks(low: float, high: float) -> list[float]:
    """Round values on the axis: powers of ten, with 2 and 5 between them where there is room, or
    evenly spaced ones where the axis is shorter than that.
    """
    if high / low < 10:
        rough = (high - low) / (MOST_TICKS - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
        return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(powers) > 2:
        return [10.0**p for p in powers[:: -(-len(powers) // MOST_TICKS)]]
    wide = range(powers.start - 1, powers.stop + 1)
    return [n * 10.0**p for p in wide for n in (1, 2, 5) if low <= n * 10.0**p <= high]
