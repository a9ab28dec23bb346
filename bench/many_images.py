"""A million synthetic images: time, disk and memory of drawing, writing and measuring them.

    python bench/many_images.py [--num 10000,100000,1000000]

Images of 32 x 32 in colour from a tiny network in one step (the sampler's own cost is measured by
bench/sampling.py), on one thread. Drawing is broken off half-way and goes on from the parts that
lie on the disk. The Frechet distance is that of all images, in 32 features of a small network.
"""

import dataclasses
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from harness import Row, interleaved, median, parser, publish, report
from scaling import PeakMemory

from privimage.classifiers.query_network import QueryNetwork
from privimage.data.image_set import ImageSet
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import class_labels, drawn_batches, generate_images
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.evaluation.evaluate import evaluate
from privimage.release.image_files import ImageParts, load_images, save_images
from privimage.run_folder.checkpoint import Checkpoint
from privimage.settings.config import EvaluationConfig, SamplingConfig

CPU = torch.device("cpu")
NAMES = tuple("0123456789")


def main() -> None:
    options_of = parser(__doc__)
    options_of.add_argument("--num", default="10000,100000,1000000")
    options = options_of.parse_args()
    if options.variant:
        run_variant(int(options.variant))
        return
    found = interleaved(__file__, options.num.split(","), rounds=options.rounds)
    publish_table(found, options)


def run_variant(num: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    denoiser = Denoiser(
        UNet(
            UNetConfig(
                image_size=32,
                num_channels=3,
                num_classes=10,
                base_channels=8,
                channel_multipliers=(1, 1, 1),
                blocks_per_level=1,
                attention_resolutions=(),
            )
        )
    )
    config = SamplingConfig(num_images=num, num_steps=1)
    few = dataclasses.replace(config, num_images=1000)
    real = generate_images(denoiser, few, generator=torch.Generator())
    network = QueryNetwork(10, num_channels=3, widths=(8, 32), blocks=(1, 1), block="basic")
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as name, PeakMemory() as peak:
        folder = Path(name)
        for end in (num // 1000, None):  # the first time it is broken off half-way
            parts = ImageParts(lambda part: Checkpoint(folder / f"{part}.pt", belongs_to=num))
            noise = torch.Generator().manual_seed(0)
            left = drawn_batches(denoiser, config, generator=noise, done=parts.num_images)
            for images in islice(left, end):
                parts.add(images)
        times.append(time.perf_counter())
        save_images(folder / "images.npz", parts, class_labels(num, 10), NAMES, insecure=False)
        times.append(time.perf_counter())
        metrics = evaluate(
            load_images(folder / "images.npz"),
            real_test=ImageSet(*real, NAMES, "others", 1000),
            real_train=None,
            network=network,
            config=EvaluationConfig(frechet_num_images=num),
            with_classifiers=False,
            seed=0,
            device=CPU,
        )
        times.append(time.perf_counter())
        disk = sum(path.stat().st_size for path in folder.iterdir())
    assert metrics["frechet_num_images"] == num
    report(
        drawing=times[1] - times[0], writing=times[2] - times[1], measuring=times[3] - times[2],
        anonymous_mib=peak.mib["RssAnon"], file_mib=peak.mib["RssFile"], disk_mib=disk / 2**20,
    )  # fmt: skip


def publish_table(found: dict[str, list[Row]], options: Any) -> None:
    rows = [
        [f"{int(num):,}", *(f"{median(results, key):,.0f}" for key in
            ("drawing", "writing", "measuring", "anonymous_mib", "file_mib", "disk_mib"))]
        for num, results in found.items()
    ]  # fmt: skip
    publish(
        "many_images", title="Synthetic images of 32 x 32 in colour, interrupted half-way",
        columns=["images", "drawing, s", "writing, s", "measuring, s", "peak anonymous MiB",
                 "peak MiB of files", "disk, MiB"],
        rows=rows, settings=vars(options), figures=found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
