"""What the benchmarks share: variants measured in interleaved subprocesses, and one table each.

A benchmark lists its variants; every round runs each of them once in a process of its own, so that
peak memory belongs to one variant and a slow moment of the machine falls on all. Only ratios
within one table mean anything. Tables go to bench/results as JSON and as Markdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from privimage.machine.environment import describe_environment

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def interleaved(
    script: str, variants: Sequence[str], *, rounds: int, options: Sequence[str] = ()
) -> dict[str, list[Row]]:
    """Run `script --variant NAME *options` for every variant, `rounds` times in turn.

    Each child calls `report` once. A child that fails ends the benchmark.
    """
    found: dict[str, list[Row]] = {name: [] for name in variants}
    for round_number in range(rounds):
        for name in variants:
            print(f"round {round_number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            command = [sys.executable, script, "--variant", name, *options]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(child.stdout.splitlines()[-1]))
    return found


def report(**figures: Any) -> None:
    """Print a child's figures for the parent, with the peak resident memory of its process."""
    # not ru_maxrss: a child inherits its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    print(json.dumps({**figures, "peak_mib": peak}), flush=True)


def seconds_per_call(
    work: Callable[[], Any], *, device: torch.device, calls: int, warm_up: int = 1
) -> list[float]:
    """Wall time of each call after `warm_up` calls; on a GPU between events."""
    for _ in range(warm_up):
        work()
    if device.type != "cuda":
        times = []
        for _ in range(calls):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return times
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize(device)
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]


def median(rows: Sequence[Row], key: str) -> float:
    """Median of a figure over rounds; lists of times are pooled."""
    return statistics.median(_pooled(rows, key))


def spread(rows: Sequence[Row], key: str) -> tuple[float, float]:
    """Smallest and largest value of a figure over rounds."""
    values = _pooled(rows, key)
    return min(values), max(values)


def _pooled(rows: Sequence[Row], key: str) -> list[float]:
    values: list[float] = []
    for row in rows:
        values += row[key] if isinstance(row[key], list) else [row[key]]
    return values


def publish(
    name: str,
    *,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    settings: dict[str, Any],
    figures: Any,
    device: torch.device | None = None,
    **more: Any,
) -> None:
    """Print the table; keep it as bench/results/NAME.md and, with all figures (and `more` of what
    follows from them), as NAME.json.
    """
    environment = describe_environment(device or torch.device("cpu"))
    machine = (
        f"{environment['device_name']}, {environment['num_cpus']} cores, "
        f"torch {environment['torch']}, {environment['date'][:10]}"
    )
    lines = [f"**{title}** ({machine})", "", "| " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * len(columns))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(table)
    document = {"title": title, "environment": environment, "settings": settings}
    document |= {"figures": figures, **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(table)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    result.add_argument("--variant", help="run one variant in this process (for the parent)")
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return result
