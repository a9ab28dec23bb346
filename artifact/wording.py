"""How numbers, metrics and arms are written for people, the same on the terminal and in reports."""

from collections.abc import Callable

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
}


def number(value: float) -> str:
    """Four significant digits, and whole numbers in full."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"


def metric_title(path: str) -> str:
    """A metric's name as people write it, from its dotted path."""
    return TITLES.get(path, path.rsplit(".", 1)[-1].replace("_", " ").capitalize())


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
