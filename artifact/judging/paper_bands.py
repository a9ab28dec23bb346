"""From the paper's main table to expected results, for the one setting that is judged by it.

The paper gives no spread, so a number gets the larger of half its last digit and 5 %, and says so.
An entry is for the paper's image set and epsilon only, and an FID for its number of images.
"""

from typing import Any

from artifact.claims.paper_results import MAIN_TABLE, published_table
from artifact.claims.registry import Claim
from artifact.judging.epsilons import AGAINST_PAPER, PAPER_METHOD, arm_epsilons
from artifact.judging.reference import epsilon_bound
from artifact.judging.wording import is_accuracy, number
from privimage.errors import UserError

TOLERANCE = 0.05  # relative
LAST_DIGIT = 0.1  # of the table
FID_IMAGES = 5000


def expected_from_paper(claim: Claim, setting_name: str) -> dict[str, Any]:
    """The section of the setting that is judged by the paper's own numbers, cell by cell."""
    if setting_name != AGAINST_PAPER or claim.published_as is None:
        raise UserError(
            f"{claim.id}/{setting_name} is not judged by the paper's table; give recorded runs "
            f"with --records (only setting {AGAINST_PAPER} of a claim with published_as goes "
            "without)"
        )
    table, dataset = published_table(MAIN_TABLE), claim.published_as
    epsilons = arm_epsilons(claim.setting(setting_name))
    values = []
    for metric, better in claim.measures.items():
        name = metric.removeprefix("metrics.")
        for arm, epsilon in epsilons.items() if name in table.metrics(dataset) else ():
            printed = table.value(PAPER_METHOD, dataset, metric=name, epsilon=epsilon)
            if printed is not None:
                key = {"data.sensitive": dataset, "privacy.target_epsilon": epsilon}
                values.append(_band(arm, metric, better, printed, key, table.source))
    bounds = [epsilon_bound(arm, epsilon) for arm, epsilon in epsilons.items()]
    return {
        "seeds": [],
        "hardware": "the paper's",
        "values": values + bounds,
        "orderings": [],
        "selection": [],
    }


def _band(
    arm: str, metric: str, better: str, printed: float, key: dict[str, Any], source: str
) -> dict[str, Any]:
    """5 % or half the last digit, whichever is larger; in the unit of our records."""
    half_width = max(LAST_DIGIT / 2, TOLERANCE * printed)
    scale, digits = (0.01, 6) if is_accuracy(metric) else (1, 4)
    mean, low, high = (
        round(scale * value, digits)
        for value in (printed, printed - half_width, printed + half_width)
    )
    if metric.endswith("fid"):
        key = key | {"metrics.frechet_num_images": FID_IMAGES}
    reason = (
        f"printed as {printed:g}, without a spread, so that the tolerance is the larger of half "
        f"the last digit ({LAST_DIGIT / 2:g}) and {TOLERANCE:.0%} "
        f"({number(half_width)}). {' '.join(source.split())}"
    )
    entry = {"metric": metric, "arm": arm, "better": better, "mean": mean, "low": low, "high": high}
    return {**entry, "key": key, "source": reason}
