"""The privacy budget of every cell of the paper's main table (docs/method.md, 2 and 6).

For each preset: the DP-SGD noise multiplier by the published search and by ours, with RDP and with
PLD; what the query costs alone; and what the published multiplier costs. Public settings only: no
image is read, and nothing is spent.
"""

from pathlib import Path

from privimage.privacy.accounting import (
    Accountant,
    Mechanism,
    calibrate_noise_multiplier,
    gaussian_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from privimage.privacy.query import query_mechanism
from privimage.settings.presets import PRESETS, RECIPES, Preset

PUBLISHED_TOLERANCE = 0.01  # where the published search stops, below epsilon
TOLERANCE = 1e-4  # where a run of ours stops
PLD_TOLERANCE = 5e-4  # of epsilon itself; each step of this search takes up to half a second


def budget_metrics(_: Path, __: int = 0) -> dict[str, dict[str, float]]:
    """Metrics of all nine cells, by the name of their preset."""
    return {name: cell_metrics(preset) for name, preset in PRESETS.items()}


def cell_metrics(preset: Preset) -> dict[str, float]:
    """Noise multipliers and epsilons of one cell."""
    recipe = RECIPES[preset.recipe]
    query, delta = query_mechanism(recipe.query_noise_multiplier), recipe.delta

    def calibrated(accountant: Accountant, tolerance: float) -> float:
        return calibrate_noise_multiplier(
            (query,),
            sampling_rate=recipe.sampling_rate,
            count=recipe.num_steps,
            epsilon=preset.epsilon,
            delta=delta,
            accountant=accountant,
            tolerance=tolerance,
        )

    steps = Mechanism(preset.published_sgd_noise_multiplier, recipe.sampling_rate, recipe.num_steps)
    return {
        "multiplier_by_published_search": calibrated("rdp", PUBLISHED_TOLERANCE),
        "multiplier_of_a_run": calibrated("rdp", TOLERANCE),
        "multiplier_by_pld": calibrated("pld", PLD_TOLERANCE * preset.epsilon),
        "epsilon_of_query_exact": gaussian_epsilon(query.noise_multiplier, delta=delta),
        "epsilon_of_query_by_rdp": rdp_epsilon((query,), delta=delta),
        "epsilon_of_query_by_pld": pld_epsilon((query,), delta=delta),
        "epsilon_of_published_multiplier_by_rdp": rdp_epsilon((query, steps), delta=delta),
        "epsilon_of_published_multiplier_by_pld": pld_epsilon((query, steps), delta=delta),
    }
