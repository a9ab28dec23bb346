"""What a GPU measured, put where readers look: the tables into docs/speed.md, one line into README.

Both pages have a pair of comments, between which all is replaced: merging twice is merging once. A
table that is not there (a step was cut off) leaves no trace but the line that says so.
"""

import json
import re
from pathlib import Path

PAGES = ("docs/speed.md", "README.md")
BEGIN, END = "<!-- gpu: bench/on_gpu.sh replaces this -->", "<!-- /gpu -->"
TABLES = ("hours_cuda.md", "dp_step_cuda_*.md", "sampling_cuda.md")
BY_HAND = (
    "to change by hand: the times that are marked ★ (python -m artifact.claims.estimates), "
    "docs/gpu.md and docs/scale.md, and the appendix (make appendix)"
)


def merge(root: Path, results: Path) -> list[Path]:
    """Replace what stands between the comments of both pages; the pages that were changed."""
    speed, readme = (root / page for page in PAGES)
    for path, text in ((speed, tables(results)), (readme, line(results))):
        before = path.read_text()
        if before.count(BEGIN) != 1 or before.count(END) != 1:
            raise SystemExit(f"error: {path} needs one {BEGIN} and, after it, one {END}")
        path.write_text(_between().sub(lambda _, text=text: f"{BEGIN}{text}{END}", before))
    return [speed, readme]


def merged_part(path: Path) -> str:
    found = _between().search(path.read_text())
    return found[1].strip() if found else ""


def tables(results: Path) -> str:
    """All tables, and the steps that did not end well."""
    found = [path for pattern in TABLES for path in sorted(results.glob(pattern))]
    steps = json.loads((results / "on_gpu.json").read_text())["steps"]
    bad = [f"{step['name']} ({step['status']})" for step in steps if step["status"] != "done"]
    parts = [path.read_text().strip() for path in found]
    parts += [f"Not measured: {', '.join(bad)}."] if bad else []
    return "\n" + "\n\n".join(parts) + "\n"


def line(results: Path) -> str:
    """For README: one line of what hours.py found, or that it found nothing."""
    path = results / "hours_cuda.json"
    if not path.is_file():
        return (
            "\n  A GPU was used, but its hours were not measured ([docs/speed.md](docs/speed.md)). "
        )
    document = json.loads(path.read_text())
    hours = ", ".join(f"{name} {value:.1f}" for name, value in document["hours"].items())
    machine = document["environment"]["device_name"]
    return (
        f"\n  On {machine} the paper's settings take about these hours: "
        f"{hours}\n  (extrapolated from some steps, [docs/speed.md](docs/speed.md)). "
    )


def clear(results: Path) -> None:
    """Remove what an earlier GPU left: it must not stand beside the new."""
    for pattern in TABLES:
        for path in results.glob(pattern):
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)


def _between() -> re.Pattern[str]:
    return re.compile(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", re.S)
