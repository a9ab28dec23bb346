"""What normal noise of an exact law costs beside other ways to draw it, on one core.

    python bench/noise.py [--num 1000000] [--rounds 3]

`exact` is what the Gaussian mechanism uses, with words from the kernel; `box-muller` is the method
that it replaced, from the same words (its law is not exact: docs/noise.md); `numpy` draws with a
seeded generator in double precision, which is neither exact nor secret. The floor is what the
kernel's words alone cost: 16 bytes a draw.
"""

import argparse
import math
import os

import numpy as np
import torch
from harness import Row, interleaved, median, parser, publish, report, seconds_per_call, spread

from privimage.privacy.noise import gaussian_steps
from privimage.privacy.rng import RandomSource, secure_source

DEVIATION = 2.0**28 * 20.3  # in grid steps, as a clip norm and a multiplier give it
VARIANTS = ("words alone", "exact", "box-muller", "numpy")
COLUMNS = ("method", "seconds a million draws", "fastest to slowest", "peak MiB")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--num", type=int, default=1_000_000)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.variant:
        measure(options)
    else:
        compare(options)


def measure(options: argparse.Namespace) -> None:
    source, generator = secure_source(), np.random.default_rng(0)
    draw = {
        "words alone": lambda: os.urandom(16 * options.num),
        "exact": lambda: gaussian_steps(source, options.num, deviation=DEVIATION),
        "box-muller": lambda: box_muller(source, options.num),
        "numpy": lambda: np.rint(generator.standard_normal(options.num) * DEVIATION),
    }[options.variant]
    report(seconds=seconds_per_call(draw, device=torch.device("cpu"), calls=5))


def box_muller(source: RandomSource, num: int) -> np.ndarray:
    fractions = (source.uniform_words(num) >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((fractions[: num // 2] + 1.0) * 2.0**-53))
    angle = fractions[num // 2 :] * (2.0 * math.pi * 2.0**-53)
    pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return np.rint(pairs * DEVIATION)


def compare(options: argparse.Namespace) -> None:
    shared = [f"--num={options.num}"]
    found = interleaved(__file__, VARIANTS, rounds=options.rounds, options=shared)
    millions = options.num / 1e6
    publish(
        "noise",
        title=f"{options.num:,} normal draws, one core",
        columns=COLUMNS,
        rows=[table_row(name, found[name], millions) for name in VARIANTS],
        settings={"num": options.num, "rounds": options.rounds},
        figures=found,
    )


def table_row(name: str, rows: list[Row], millions: float) -> list[str]:
    fastest, slowest = (seconds / millions for seconds in spread(rows, "seconds"))
    return [
        name,
        f"{median(rows, 'seconds') / millions:.3f}",
        f"{fastest:.3f} to {slowest:.3f}",
        f"{median(rows, 'peak_mib'):.0f}",
    ]


if __name__ == "__main__":
    main()
