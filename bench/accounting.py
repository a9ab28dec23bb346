"""What the search for the noise multiplier costs in the paper's settings, beside Opacus's.

    python bench/accounting.py [--rounds 2]

Both search until epsilon is met within .01. Ours accounts for the noisy query as well as for the
training steps; Opacus's search knows steps only, so that its multiplier leaves the query unpaid.
PLD is set beside Opacus's PRV: both compose the privacy losses numerically and report an upper
bound on epsilon, PRV's wider by the error of .01 that it allows itself.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from harness import Row, interleaved, median, parser, publish, report, seconds_per_call
from opacus.accountants.utils import get_noise_multiplier

from privimage.privacy import accounting
from privimage.privacy.accounting import Mechanism, calibrate_noise_multiplier


@dataclass(frozen=True)
class Setting:
    """A data set as the paper trains on it: what its query adds, and its Poisson-sampled steps."""

    name: str
    query_multiplier: float
    sampling_rate: float
    steps: int
    delta: float


SETTINGS = (
    Setting("CIFAR-10", 484.0, 1 / 3, 150, 1e-5),
    Setting("CelebA32", 5300.0, 1 / 9, 450, 1e-6),
    Setting("CelebA64", 5300.0, 1 / 20, 1000, 1e-6),
)
EPSILONS = (10.0, 5.0, 1.0)
TOLERANCE = 1e-2  # the paper's
PEERS = {"rdp": "rdp", "pld": "prv"}  # our accountant and the one of Opacus beside it
VARIANTS = [*(f"ours {ours}" for ours in PEERS), *(f"opacus {peer}" for peer in PEERS.values())]
COLUMNS = (
    "setting",
    "accountant",
    "ours, s",
    "Opacus, s",
    "multiplier, ours (query included)",
    "multiplier, Opacus (steps alone)",
)


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(rounds=2)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.variant:
        measure(*options.variant.split())
        return
    found = interleaved(__file__, VARIANTS, rounds=options.rounds)
    publish(
        "accounting",
        title="Search for the noise multiplier, to within .01 of epsilon; ours pays for the query "
        "too, which Opacus's cannot",
        columns=COLUMNS,
        rows=[
            table_row(setting.name, epsilon, ours, found)
            for setting in SETTINGS
            for epsilon in EPSILONS
            for ours in PEERS
        ],
        settings={
            "settings": [asdict(setting) for setting in SETTINGS],
            "tolerance": TOLERANCE,
            "rounds": options.rounds,
        },
        figures=found,
    )


def table_row(name: str, epsilon: float, ours: str, found: dict[str, list[Row]]) -> list[str]:
    label = f"{name}, epsilon {epsilon:g}"
    sides = found[f"ours {ours}"], found[f"opacus {PEERS[ours]}"]
    return [
        label,
        ours.upper() if ours == PEERS[ours] else f"{ours.upper()}, Opacus {PEERS[ours].upper()}",
        *(f"{median(rows, f'{label}: seconds'):.3f}" for rows in sides),
        *(f"{median(rows, f'{label}: multiplier'):.4f}" for rows in sides),
    ]


def measure(library: str, accountant: str) -> None:
    """Every setting with one accountant, each from empty caches and after one search unmeasured."""
    search = {"ours": our_search, "opacus": opacus_search}[library]
    figures: Row = {}
    for setting in SETTINGS:
        for epsilon in EPSILONS:
            label = f"{setting.name}, epsilon {epsilon:g}"
            multipliers: list[float] = []
            figures[f"{label}: seconds"] = seconds_per_call(
                keep_result(search(setting, epsilon, accountant), multipliers),
                device=torch.device("cpu"),
                calls=1,
            )
            figures[f"{label}: multiplier"] = multipliers[-1]
    report(**figures)


def keep_result(search: Callable[[], float], results: list[float]) -> Callable[[], None]:
    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(search())

    return work


def our_search(setting: Setting, epsilon: float, accountant: str) -> Callable[[], float]:
    def search() -> float:
        accounting._rdp_curve.cache_clear()
        accounting._loss_distribution.cache_clear()
        return calibrate_noise_multiplier(
            [Mechanism(setting.query_multiplier, 1.0, 1)],
            sampling_rate=setting.sampling_rate,
            count=setting.steps,
            epsilon=epsilon,
            delta=setting.delta,
            accountant="pld" if accountant == "pld" else "rdp",
            tolerance=TOLERANCE,
        )

    return search


def opacus_search(setting: Setting, epsilon: float, accountant: str) -> Callable[[], float]:
    return lambda: get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=setting.delta,
        sample_rate=setting.sampling_rate,
        steps=setting.steps,
        accountant=accountant,
        epsilon_tolerance=TOLERANCE,
    )


if __name__ == "__main__":
    main()
