"""Tables of a report as rows of text: the first row is the head, the first column names the row."""

import statistics
from collections.abc import Sequence

from artifact.claims import Claim
from artifact.records import ClaimRecord
from artifact.wording import arm_title, metric_title, number

ARROWS = {"higher": " ↑", "lower": " ↓", "exact": ""}
REAL = "real_"  # prefix of the same metric for real images


def metric_rows(
    claim: Claim, arms: Sequence[str], records: Sequence[ClaimRecord]
) -> list[list[str]]:
    """Every metric by arm, and for real images where that was measured."""
    names = dict.fromkeys(
        name
        for record in records
        for arm in record.arms.values()
        for name in arm["metrics"]
        if not name.startswith(REAL) and not name.endswith("num_images")
    )
    with_real = any(
        REAL + name in arm["metrics"] for r in records for arm in r.arms.values() for name in names
    )
    rows = [["", *map(arm_title, arms), *["real images"] * with_real]]
    for name in names:
        arrow = ARROWS.get(claim.measures.get(f"metrics.{name}", "exact"), "")
        cells = [_cell(records, arm, f"metrics.{name}") for arm in arms]
        if with_real:
            cells.append(_cell(records, arms[0], f"metrics.{REAL}{name}"))
        rows.append([metric_title(f"metrics.{name}") + arrow, *cells])
    for path in ("privacy.epsilon", "privacy.sgd_noise_multiplier", "model.num_parameters"):
        cells = [_cell(records, arm, path) for arm in arms]
        rows.append([metric_title(path), *cells, *["–"] * with_real])
    return rows if records else []


def time_rows(arms: Sequence[str], records: Sequence[ClaimRecord]) -> list[list[str]]:
    """Seconds of each stage by arm, over all seeds, and their sum."""
    stages = dict.fromkeys(
        stage for r in records for arm in r.arms.values() for stage in arm["timings_seconds"]
    )
    if not stages:
        return []
    rows = [["seconds", *map(arm_title, arms)]]
    for stage in stages:
        cells = [_cell(records, arm, f"timings_seconds.{stage}", digits=1) for arm in arms]
        rows.append([stage.replace("_", " "), *cells])
    return rows


def _cell(records: Sequence[ClaimRecord], arm: str, path: str, *, digits: int | None = None) -> str:
    """The mean over the seeds, with the standard deviation if there are several; – if unknown."""
    values = [v for v in (record.value(arm, path) for record in records) if v is not None]
    if not values:
        return "–"

    def show(value: float) -> str:
        return number(value) if digits is None else f"{value:.{digits}f}"

    spread = f" ± {show(statistics.stdev(values))}" if len(set(values)) > 1 else ""
    return show(statistics.fmean(values)) + spread
