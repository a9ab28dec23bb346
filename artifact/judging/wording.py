"""How numbers, metrics and arms are written for people, the same on the terminal and in reports."""

from collections.abc import Callable

from artifact.claims.registry import Ordering
from artifact.judging.expected import ExpectedOrdering

TITLES = {
    "metrics.cnn_accuracy": "CNN accuracy",
    "metrics.mlp_accuracy": "MLP accuracy",
    "metrics.logistic_regression_accuracy": "Logistic regression accuracy",
    "metrics.fid": "FID",
    "metrics.frechet_query_network": "Fréchet distance (query network)",
    "metrics.query_network_accuracy": "Query network's public accuracy",
    "privacy.epsilon": "ε spent",
    "privacy.sgd_noise_multiplier": "DP-SGD noise multiplier",
    "model.num_parameters": "Parameters",
    "metrics.num_parameters": "Parameters",
    "metrics.public_percent": "Public classes, %",
    "metrics.parameters_s_of_80_4_million_percent": "Network s of 80.4 million, %",
    "metrics.parameters_s_of_23_million_percent": "Network s of 23 million, %",
    "metrics.parameters_b_of_80_4_million_percent": "Network b of 80.4 million, %",
    "metrics.parameters_nearest_reading_percent": "The nearest of these, %",
    "metrics.fid_reduction_percent": "FID reduction, %",
    "metrics.fid_reduction_percent_all_sets_best_baseline": (
        "FID reduction on all sets, best baseline, %"
    ),
    "metrics.fid_reduction_percent_all_sets_best_of_d_and_g": (
        "FID reduction on all sets, better of D and G, %"
    ),
    "metrics.accuracy_gain_points": "Accuracy gain, points",
    "metrics.accuracy_gain_points_best_baseline": "Accuracy gain over the best baseline, points",
    "metrics.num_runs": "Runs",
}
WORDS = {"fid": "FID", "rdp": "RDP", "pld": "PLD", "epsilon": "ε", "delta": "δ", "percent": "%"}


def number(value: float, *, digits: int = 4) -> str:
    """Four significant digits, and whole numbers in full."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.{digits}g}"


def is_accuracy(metric: str) -> bool:
    """True for a fraction of images that people read in percent."""
    return metric.endswith("accuracy")


def amount(metric: str, *values: float) -> str:
    """Differences of a metric: 3 points, or 1.2 to 2.5 points, for an accuracy."""
    if is_accuracy(metric):
        return " to ".join(f"{round(100 * value, 2):g}" for value in values) + " points"
    return " to ".join(number(value) for value in values)


def ordering_text(ordering: Ordering | ExpectedOrdering) -> str:
    """What an ordering says of its two arms."""
    first, second = arm_title(ordering.first), arm_title(ordering.second)
    if ordering.margin:
        most = amount(ordering.metric, ordering.margin)
        return f"{first} not worse than {second} by more than {most}"
    return f"{first} {'>' if ordering.better == 'higher' else '<'} {second}"


def metric_title(path: str) -> str:
    """A metric's name as people write it, from its dotted path."""
    words = path.rsplit(".", 1)[-1].split("_")
    title = " ".join(WORDS.get(word, word) for word in words)
    return TITLES.get(path, title if title[0] in "εδ" else title[:1].upper() + title[1:])


def arm_title(arm: str) -> str:
    """An arm's name without its underscores."""
    return arm.replace("_", " ")


def arm_progress(
    show: Callable[[str, int, int], None], arms: list[str]
) -> Callable[[str, str, int, int], None]:
    """A progress call that names arm and stage, from one that takes a title."""

    def progress(arm: str, stage: str, done: int, total: int) -> None:
        show(f"[{arms.index(arm) + 1}/{len(arms)}] {arm_title(arm)}: {stage}", done, total)

    return progress
