"""Claims that are computed instead of trained, by the name that a claim's setting gives them.

A calculation takes the folder of the runs and a seed for what it draws, and returns metrics by arm;
the runner wraps them in a record like any other. An arm that cannot be computed here is left out,
and counts as not run.
"""

from collections.abc import Callable
from pathlib import Path

from artifact.claims.calculations.headline_averages import headline_metrics
from artifact.claims.calculations.model_size import size_metrics
from artifact.claims.calculations.privacy_audit import audit_metrics, wide_audit_metrics
from artifact.claims.calculations.privacy_budget import budget_metrics

Calculation = Callable[[Path, int], dict[str, dict[str, float]]]

CALCULATIONS: dict[str, Calculation] = {
    "headline_averages": headline_metrics,
    "model_size": size_metrics,
    "privacy_audit": audit_metrics,
    "privacy_audit_wide": wide_audit_metrics,
    "privacy_budget": budget_metrics,
}
