"""Decoding and preparing an image tree with one thread and with all cores.

    python bench/data_preparation.py [--images 4000] [--size 32] [--rounds 3]

The tree is made up: JPEG files of 178x218 pixels, CelebA's size, smooth colours with some noise, of
about 9 kB each. Both give the same bytes, which is checked. "Cores in use" is processor time over
wall time: where it stays at 1 although there are more, others use the machine.
"""

import hashlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, median, parser, publish, report, seconds_per_call, spread
from PIL import Image

from privimage.data.own.archives import open_listing
from privimage.data.own.image_tree import decode_all
from privimage.data.preparation import Preparation
from privimage.machine.hardware import usable_cores

VARIANTS = {"one thread": 1, "all cores": 0}
WIDTH, HEIGHT = 178, 218


def main() -> None:
    options_of = parser(__doc__)
    options_of.add_argument("--images", type=int, default=4000)
    options_of.add_argument("--size", type=int, default=32)
    options_of.add_argument("--tree", help="the folder of images (for the parent)")
    options = options_of.parse_args()
    if options.variant:
        run_variant(options)
        return
    with tempfile.TemporaryDirectory() as tree:
        mean_bytes = make_tree(Path(tree), options.images)
        passed_on = [*sys.argv[1:], "--tree", tree]
        found = interleaved(__file__, list(VARIANTS), rounds=options.rounds, options=passed_on)
    assert len({result["sha256"] for results in found.values() for result in results}) == 1
    serial, rows = median(found["one thread"], "seconds"), []
    for name, results in found.items():
        seconds, (low, high) = median(results, "seconds"), spread(results, "seconds")
        rows.append([
            name, f"{options.images / seconds:,.0f}", f"{serial / seconds:.2f}",
            f"{low:.2f} to {high:.2f}", f"{median(results, 'cores_in_use'):.2f}",
            f"{median(results, 'peak_mib'):,.0f}",
        ])  # fmt: skip
    columns = ["decoding", "images/s", "times one thread", "s, fastest to slowest"]
    publish(
        "data_preparation",
        title=f"{options.images:,} JPEG files of {WIDTH}x{HEIGHT} ({mean_bytes / 1000:.0f} kB) to "
        f"{options.size}x{options.size}, {usable_cores()} usable cores, same bytes",
        columns=[*columns, "cores in use", "peak MiB"], rows=rows, settings=vars(options),
        figures=found,
    )  # fmt: skip


def make_tree(root: Path, num_images: int) -> float:
    """One class of made-up photographs; returns their mean number of bytes."""
    (root / "class").mkdir()
    sizes, random = [], np.random.default_rng(0)
    for index in range(num_images):
        coarse = Image.fromarray(random.integers(0, 256, (14, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + random.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        (root / "class" / f"{index}.jpg").write_bytes(buffer.getvalue())
        sizes.append(buffer.tell())
    return float(np.mean(sizes))


def run_variant(options: Any) -> None:
    preparation = Preparation(options.size, "rgb")
    digests: list[str] = []

    def decode_tree() -> None:
        with open_listing(Path(options.tree)) as listing:
            members = sorted(listing.files, key=lambda member: member.name)
            images = decode_all(members, preparation, num_threads=VARIANTS[options.variant])
        digests.append(hashlib.sha256(images.numpy().data).hexdigest())

    before = os.times()
    (seconds,) = seconds_per_call(decode_tree, device=torch.device("cpu"), calls=1, warm_up=0)
    after = os.times()
    used = after.user + after.system - before.user - before.system
    report(seconds=seconds, cores_in_use=used / seconds, sha256=digests[0])


if __name__ == "__main__":
    main()
