"""The abstract's two averages: 6.8 % lower FID and 13.2 % higher accuracy (docs/method.md, 10).

The abstract does not spell the averages out. The rule that gives both: PRIVIMAGE+D against DPSDA on
CIFAR-10 over three epsilons, FID as a relative gain, accuracy in percentage points over the three
classifiers. `paper` applies it to the published table, with other readings beside it; `ours` to
our own records of `table_cifar10`, against the same published baseline. Released numbers only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from artifact.claims.paper_results import PublishedTable, published_table
from artifact.claims.records import ClaimRecord, find_records

Cell = tuple[str, str, int]  # image set, metric, epsilon
OURS, PARTNER, BASELINE = "privimage_d", "privimage_g", "dpsda"
BASELINES = ("dpsda", "pdp_diffusion", "dp_ldm", "dpdm", "dpgan_p", "dpgan")
EPSILONS = (10, 5, 1)
DATASETS = ("cifar10", "celeba32", "celeba64")
CLASSIFIERS = ("logistic_regression_accuracy", "mlp_accuracy", "cnn_accuracy")
FID = tuple(("cifar10", "fid", epsilon) for epsilon in EPSILONS)
ACCURACY = tuple(("cifar10", metric, epsilon) for metric in CLASSIFIERS for epsilon in EPSILONS)
ALL_FID = tuple((dataset, "fid", epsilon) for dataset in DATASETS for epsilon in EPSILONS)
CLAIM, SETTING = "table_cifar10", "full"  # our runs


def headline_metrics(out: Path, _: int = 0) -> dict[str, dict[str, float]]:
    """Both averages of the paper's table, and of our records if all their epsilons are there."""
    table = published_table()
    paper = averages(table, lambda cell: printed(table, OURS, cell))
    arms = {"paper": paper | other_readings(table)}
    runs = [recorded_cells(record) for record in find_records(out, CLAIM, SETTING)]
    complete = [run for run in runs if run is not None]
    if complete:
        ours = averages(table, lambda cell: fmean(run[cell] for run in complete))
        arms["ours"] = ours | {"num_runs": len(complete)}
    return arms


def averages(table: PublishedTable, ours: Callable[[Cell], float]) -> dict[str, float]:
    """The rule: `ours` gives our number of a cell, in the table's units."""
    return {
        "fid_reduction_percent": fmean(
            percent_lower(ours(cell), printed(table, BASELINE, cell)) for cell in FID
        ),
        "accuracy_gain_points": fmean(
            ours(cell) - printed(table, BASELINE, cell) for cell in ACCURACY
        ),
    }


def recorded_cells(record: ClaimRecord) -> Mapping[Cell, float] | None:
    """The numbers of one of our runs, in the table's units; None if any of them is missing."""
    cells = {}
    for dataset, metric, epsilon in FID + ACCURACY:
        value = record.value(f"epsilon_{epsilon}", f"metrics.{metric}")
        if value is None:
            return None
        cells[dataset, metric, epsilon] = value if metric == "fid" else 100 * value
    return cells


def other_readings(table: PublishedTable) -> dict[str, float]:
    """What "on average" could mean instead, for information: the best baseline of every cell."""

    def fid_reduction(methods: Sequence[str]) -> float:
        return fmean(
            percent_lower(
                best(min, table, methods=methods, cell=cell),
                best(min, table, methods=BASELINES, cell=cell),
            )
            for cell in ALL_FID
        )

    return {
        "fid_reduction_percent_all_sets_best_baseline": fid_reduction([OURS]),
        "fid_reduction_percent_all_sets_best_of_d_and_g": fid_reduction([OURS, PARTNER]),
        "accuracy_gain_points_best_baseline": fmean(
            printed(table, OURS, cell) - best(max, table, methods=BASELINES, cell=cell)
            for cell in ACCURACY
        ),
    }


def percent_lower(ours: float, baseline: float) -> float:
    """How many percent `ours` is below the baseline."""
    return 100 * (baseline - ours) / baseline


def best(
    choose: Callable[[Iterable[float]], float],
    table: PublishedTable,
    *,
    methods: Sequence[str],
    cell: Cell,
) -> float:
    """The lowest or highest printed number of several methods, as `choose` says."""
    return choose(printed(table, method, cell) for method in methods)


def printed(table: PublishedTable, method: str, cell: Cell) -> float:
    """A method's number as printed; the cells that are averaged here have no gaps."""
    dataset, metric, epsilon = cell
    value = table.value(method, dataset, metric=metric, epsilon=epsilon)
    assert value is not None, f"published.yaml has no {metric} of {method} on {dataset}"
    return value
