"""Results over epsilon: which epsilon each arm promises, and the lines of a figure over it.

The epsilons are those of the claim, so that what is missing is known as well. The paper's numbers
are drawn where a setting is judged by them. Released numbers only.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from artifact.claims.paper_results import MAIN_TABLE, published_table
from artifact.claims.records import ClaimRecord
from artifact.claims.registry import Claim, Setting
from artifact.judging.wording import is_accuracy, metric_title
from privimage.settings.presets import preset_settings

AGAINST_PAPER = "full"  # the one setting that is judged by the paper's numbers
PAPER_METHOD = "privimage_d"
ACCURACIES = (
    "metrics.cnn_accuracy",
    "metrics.mlp_accuracy",
    "metrics.logistic_regression_accuracy",
)
DISTANCES = ("metrics.fid", "metrics.frechet_query_network")


@dataclass(frozen=True)
class Line:
    """A metric over epsilon: points of (epsilon, mean, standard deviation over the seeds)."""

    label: str
    points: tuple[tuple[float, float, float], ...]
    is_paper: bool = False


def arm_epsilons(setting: Setting) -> dict[str, float]:
    """The epsilon that each arm promises; a setting that only computes has none."""
    found = {}
    for arm, overrides in setting.arms.items():
        base = preset_settings(overrides["preset"]) if "preset" in overrides else {}
        privacy = (base | setting.config).get("privacy", {})
        epsilon = overrides.get("privacy.epsilon", privacy.get("epsilon"))
        if epsilon is not None:
            found[arm] = float(epsilon)
    return found


def epsilon_panels(
    claim: Claim, setting: str, records: Sequence[ClaimRecord]
) -> dict[str, list[Line]]:
    """Panels by title; none unless the arms differ in epsilon and at least two of them ran."""
    epsilons = arm_epsilons(claim.setting(setting))
    if len(set(epsilons.values())) < len(epsilons):
        return {}
    paper = claim.published_as if setting == AGAINST_PAPER else None
    panels = {"Accuracy on real test images, %": ACCURACIES}
    panels |= {metric_title(metric): (metric,) for metric in DISTANCES}
    lines = {title: _lines(epsilons, ms, records, paper) for title, ms in panels.items()}
    return {title: found for title, found in lines.items() if found}


def _lines(
    epsilons: dict[str, float],
    metrics: Sequence[str],
    records: Sequence[ClaimRecord],
    paper: str | None,
) -> list[Line]:
    lines = []
    for metric in metrics:
        scale = 100 if is_accuracy(metric) else 1
        points = []
        for arm, epsilon in sorted(epsilons.items(), key=lambda item: item[1]):
            values = [scale * v for r in records if (v := r.value(arm, metric)) is not None]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                points.append((epsilon, statistics.fmean(values), spread))
        if len(points) > 1:
            lines.append(Line(metric_title(metric), tuple(points)))
            lines += _paper_line(metric, paper) if paper else []
    return lines


def _paper_line(metric: str, dataset: str) -> list[Line]:
    table, name = published_table(MAIN_TABLE), metric.removeprefix("metrics.")
    if name not in table.metrics(dataset):
        return []
    found = [
        (epsilon, table.value(PAPER_METHOD, dataset, metric=name, epsilon=epsilon))
        for epsilon in sorted(table.epsilons(PAPER_METHOD))
    ]
    points = tuple((epsilon, value, 0.0) for epsilon, value in found if value is not None)
    return [Line("the paper", points, is_paper=True)]
