"""What a Frechet distance costs beside pytorch-fid's, which the published numbers come from.

    python bench/frechet.py [--dims 2048] [--num 10000] [--threads 1] [--rounds 2]

Both get the same means and covariances of made-up features whose variances fall as those of real
ones do; they are made before the timing, in a process of their own. pytorch-fid takes the root of a
general matrix, ours the eigenvalues of a symmetric one.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

import torch
from harness import Row, interleaved, median, parser, publish, report, seconds_per_call, spread
from pytorch_fid.fid_score import calculate_frechet_distance

from privimage.evaluation.frechet import FeatureStatistics, frechet_distance

STATISTICS = "statistics"
VARIANTS = ("ours", "pytorch-fid")
COLUMNS = ("method", "seconds", "fastest to slowest", "times faster", "peak MiB", "value")
SHARED_OPTIONS = ("dims", "num", "threads")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dims", type=int, default=2048)
    arguments.add_argument("--num", type=int, default=10_000, help="feature vectors on each side")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--folder", type=Path, help="of the statistics (for the parent)")
    arguments.set_defaults(rounds=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    if options.variant == STATISTICS:
        make_statistics(options)
    elif options.variant:
        measure(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    # scipy's threads are set by the environment alone, and at its import
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    settings = {name: getattr(options, name) for name in SHARED_OPTIONS}
    shared = [f"--{name}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder:
        shared.append(f"--folder={folder}")
        interleaved(__file__, [STATISTICS], rounds=1, options=shared)
        found = interleaved(__file__, VARIANTS, rounds=options.rounds, options=shared)
    publish(
        "frechet",
        title=f"Frechet distance, {options.dims:,} features of {options.num:,} images on each side,"
        f" {options.threads} thread{'s' if options.threads > 1 else ''}",
        columns=COLUMNS,
        rows=[table_row(name, found) for name in VARIANTS],
        settings=settings | {"rounds": options.rounds},
        figures=found,
    )


def table_row(name: str, found: dict[str, list[Row]]) -> list[str]:
    rows = found[name]
    seconds = median(rows, "seconds")
    low, high = spread(rows, "seconds")
    return [
        name,
        f"{seconds:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{median(found['pytorch-fid'], 'seconds') / seconds:.1f}",
        f"{median(rows, 'peak_mib'):.0f}",
        f"{median(rows, 'value'):.8f}",
    ]


def make_statistics(options: argparse.Namespace) -> None:
    mixing = torch.randn(
        options.dims, options.dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for seed, power in enumerate((1.5, 1.4), start=1):
        statistics = FeatureStatistics.of(made_up_features(options.num, mixing, seed, power))
        torch.save(vars(statistics), options.folder / f"{seed}.pt")
    report()


def made_up_features(num: int, mixing: torch.Tensor, seed: int, power: float) -> torch.Tensor:
    """Variances that fall as rank^-power along mixed directions, about a mean of their own."""
    dims = len(mixing)
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, dims + 1, dtype=torch.float64) ** (-power / 2)
    raw = torch.randn(num, dims, generator=generator, dtype=torch.float64)
    shift = 0.1 * torch.randn(dims, generator=generator, dtype=torch.float64) / dims**0.5
    return (raw * deviations) @ (mixing / dims**0.5) + shift


def measure(options: argparse.Namespace) -> None:
    a, b = (
        FeatureStatistics(**torch.load(options.folder / f"{seed}.pt", weights_only=True))
        for seed in (1, 2)
    )

    def ours() -> float:
        return frechet_distance(a, b)

    def theirs() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = calculate_frechet_distance(
                a.mean.numpy(), a.covariance.numpy(), b.mean.numpy(), b.covariance.numpy()
            )
        return float(value)

    values: list[float] = []
    distance = ours if options.variant == "ours" else theirs
    seconds = seconds_per_call(
        lambda: values.append(distance()), device=torch.device("cpu"), calls=2
    )
    report(seconds=seconds, value=values[-1])


if __name__ == "__main__":
    main()
