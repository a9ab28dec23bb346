"""All that one GPU can show in under 8 minutes, into bench/results, docs/speed.md and README.

    bench/on_gpu.sh [PYTHON] [--compiled] [--dry-run]

Each step has a limit, and the limits add up to less than 8 minutes; a step that is cut off or fails
is named, and the others go on. `--compiled` adds compiled code, without a limit. `--dry-run` needs
no GPU: it reads every step's options and makes the tables of made-up figures in a temporary folder.
"""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gpu_tables
import harness
import torch

from privimage.machine.environment import describe_environment

ROOT = Path(__file__).parents[1]
RESULT = "on_gpu.json"
ON_GPU = ("--device", "cuda")
ROUND = ("--rounds", "1")
ROWS = "ordinary, |loop|folded|Opacus hooks"  # of the DP step: what decides, and the two floors


@dataclass(frozen=True)
class Step:
    """A script with its options; `limit` in seconds, none with compiled code."""

    name: str
    command: tuple[str, ...]
    limit: float | None


EAGER = (
    Step("tests", ("-m", "pytest", "-q", "-m", "gpu", "-k", "not compiled", "tests"), 90),
    Step("hours", ("bench/hours.py", *ON_GPU, "--eager"), 120),
    Step(
        "dp_step",
        ("bench/dp_step.py", *ON_GPU, *ROUND, "--images", "64", "--copies", "16", "--calls", "5",
         "--only", ROWS),
        180,
    ),
    Step("sampling", ("bench/sampling.py", *ON_GPU, *ROUND, "--batch", "512"), 70),
)  # fmt: skip
COMPILED = (
    Step("tests, compiled", ("-m", "pytest", "-q", "-m", "gpu", "-k", "compiled", "tests"), None),
    Step("hours, compiled", ("bench/hours.py", *ON_GPU), None),
    Step("dp_step, compiled", (*EAGER[2].command, "--compiled"), None),
    Step("sampling, compiled", (*EAGER[3].command, "--compiled"), None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compiled", action="store_true", help="compiled code too: no limit")
    parser.add_argument("--dry-run", action="store_true", help="made-up figures, no GPU, no result")
    options = parser.parse_args()
    steps = [*EAGER, *(COMPILED if options.compiled else ())]
    if options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            dry_run(steps, Path(folder))
        return
    if not torch.cuda.is_available():
        sys.exit("error: no CUDA device; --dry-run does without one")
    gpu_tables.clear(harness.RESULTS)
    done = [taken(step) for step in steps]
    write_result(harness.RESULTS, done, torch.device("cuda"))
    for path in gpu_tables.merge(ROOT, harness.RESULTS):
        print(f"changed: {path}")
    print(gpu_tables.BY_HAND)
    sys.exit(any(one["status"] != "done" for one in done))


def taken(step: Step) -> dict[str, Any]:
    """The step in a process of its own, with how it ended and its seconds."""
    print(f"== {step.name}", flush=True)
    started = time.monotonic()
    status = "done"
    try:
        ran = subprocess.run([sys.executable, *step.command], cwd=ROOT, timeout=step.limit)
        if ran.returncode:
            status = f"failed with exit status {ran.returncode}"
    except subprocess.TimeoutExpired:
        status = f"cut off after {step.limit:g} s"
    seconds = time.monotonic() - started
    print(f"== {step.name}: {status}, {seconds:.0f} s", flush=True)
    return {**asdict(step), "status": status, "seconds": seconds}


def write_result(folder: Path, done: Sequence[dict[str, Any]], device: torch.device) -> None:
    document = {"environment": describe_environment(device), "steps": done}
    (folder / RESULT).write_text(json.dumps(document, indent=1) + "\n")


def dry_run(steps: Sequence[Step], folder: Path) -> None:
    """Every step but the tests, read and tabulated as if it had measured; merged into copies."""
    results = folder / "bench/results"
    results.mkdir(parents=True)
    for page in gpu_tables.PAGES:
        (folder / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, folder / page)
    for step in steps:
        script, *arguments = step.command
        if script == "-m":
            continue
        name = Path(script).stem
        measured, made_up = MADE_UP.get(name, ("interleaved", made_up_rows))
        module = importlib.import_module(name)
        with (
            patch.object(sys, "argv", [script, *arguments]),
            patch.object(harness, "RESULTS", results),
            patch.object(harness, "describe_environment", made_up_environment),
            patch.object(module, measured, made_up),
        ):
            module.main()
    write_result(results, [{**asdict(s), "status": "not run", "seconds": 0} for s in steps], CPU)
    for path in gpu_tables.merge(folder, results):
        print(f"== {path.relative_to(folder)} would have:\n{gpu_tables.merged_part(path)}")
    print("dry run: every figure above is made up, and no file was changed")


CPU = torch.device("cpu")


def made_up_rows(
    script: str, variants: Sequence[str], *, rounds: int, options: Sequence[str] = ()
) -> dict[str, list[harness.Row]]:
    figures = {"seconds": [1.0, 2.0], "gpu_mib": 1000.0, "peak_mib": 1000.0}
    figures |= {"matmul_flops_float32": 1e13, "matmul_flops_bfloat16": 1e14}
    return {name: [{**figures, "pixels": [0, 1]} for _ in range(rounds)] for name in variants}


def made_up_rates(*_: Any, **__: Any) -> dict[str, Any]:
    return {"pretrain": 1e4, "finetune": 1e3, "sampling": 1e2, "engine": "made up"}


# what measures in a script, where it is not the variants in turn
MADE_UP: dict[str, tuple[str, Callable[..., Any]]] = {"hours": ("rates", made_up_rates)}


def made_up_environment(_device: torch.device) -> dict[str, Any]:
    return describe_environment(CPU) | {"device_name": "A MADE-UP GPU"}


if __name__ == "__main__":
    main()
