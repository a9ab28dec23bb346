"""Seconds of every stage and peak memory of the demo's main arm, in each precision.

python bench/pipeline.py [--rounds 1] [--threads 2]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from harness import interleaved, median, parser, publish, report

from privimage.machine.hardware import usable_cores
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline

VARIANTS = ("float32", "bfloat16")
CLAIM = Path(__file__).parents[1] / "claims" / "kick_the_tires" / "claim.yaml"


def main() -> None:
    options_of = parser(__doc__)
    options_of.add_argument("--threads", type=int, default=usable_cores())
    options = options_of.parse_args()
    if options.variant:
        run_variant(options)
        return
    found = interleaved(__file__, VARIANTS, rounds=options.rounds, options=sys.argv[1:])
    stages = [key for key in found[VARIANTS[0]][0] if key not in ("cnn_accuracy", "peak_mib")]
    rows = [[stage, *(f"{median(found[v], stage):.1f}" for v in VARIANTS)] for stage in stages]
    rows.append(["peak MiB", *(f"{median(found[v], 'peak_mib'):,.0f}" for v in VARIANTS)])
    rows.append(["CNN accuracy", *(f"{median(found[v], 'cnn_accuracy'):.3f}" for v in VARIANTS)])
    publish(
        "pipeline", title=f"One run of the demo's main arm, seconds, {options.threads} threads",
        columns=["stage", *VARIANTS], rows=rows, settings=vars(options), figures=found,
    )  # fmt: skip


def run_variant(options: Any) -> None:
    settings = yaml.safe_load(CLAIM.read_text())["settings"]["smoke"]["config"]
    settings |= {"name": "benchmark", "seed": 0}
    overrides = {
        "performance.precision": options.variant,
        "performance.num_threads": options.threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        record = run_pipeline(load_config(settings, overrides), Path(folder))
    seconds = record["timings_seconds"]
    report(**seconds, sum=sum(seconds.values()), cnn_accuracy=record["metrics"]["cnn_accuracy"])


if __name__ == "__main__":
    main()
