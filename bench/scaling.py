"""What a DP-SGD step costs against the number of images N, batch B, copies K and image size.

    python bench/scaling.py [--steps 10] [--rounds 3] [--strategy folded]

One of the four is changed at a time; a small network, one thread. The set is a folder of mapped
arrays; its files are sparse, so they cost no disk and no time of one. The coins are tossed for all
N images, then exactly B images are taken, so that times compare. The second table fits straight
lines and tells the largest relative distance from them.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, interleaved, median, parser, publish, report, seconds_per_call

from privimage.data.image_set import ImageSet
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.gradients.engine import Engine
from privimage.privacy.clipping import ClippedGradientSum
from privimage.privacy.dp_sgd import noisy_mean_gradient
from privimage.privacy.rng import secure_source
from privimage.privacy.sampling import poisson_sample
from privimage.settings.config import FinetuneConfig
from privimage.training.finetune import noisy_examples

STANDARD = {"N": 30_000, "B": 16, "K": 2, "size": 32}
CHANGES = {
    "N": (1_000, 30_000, 1_000_000),
    "B": (4, 8, 16, 32),
    "K": (1, 2, 4, 8),
    "size": (8, 16, 32),
}
CPU = torch.device("cpu")


def main() -> None:
    options_of = parser(__doc__)
    options_of.add_argument("--steps", type=int, default=10)
    options_of.add_argument("--strategy", default="folded", choices=["folded", "loop"])
    options = options_of.parse_args()
    if options.variant:
        run_variant(options)
        return
    variants = [f"{name}={value}" for name, values in CHANGES.items() for value in values]
    found = interleaved(__file__, variants, rounds=options.rounds, options=sys.argv[1:])
    publish_costs(found, options)
    publish_lines(found, options)


def publish_costs(found: dict[str, list[Row]], options: Any) -> None:
    rows = []
    for variant, results in found.items():
        name, value = variant.split("=")
        rows.append([
            f"{name} = {int(value):,}", f"{median(results, 'step_seconds'):.3f}",
            f"{1000 * median(results, 'sampling_seconds'):.2f}",
            f"{median(results, 'anonymous_mib'):,.0f}", f"{median(results, 'file_mib'):,.0f}",
            f"{median(results, 'naming_seconds'):.2f}",
        ])  # fmt: skip
    standard = ", ".join(f"{name} = {value:,}" for name, value in STANDARD.items())
    publish(
        "scaling", title=f"A DP-SGD step ({options.strategy}), otherwise {standard}",
        columns=["changed", "step, s", "of it sampling, ms", "peak anonymous MiB",
                 "peak MiB of files", "naming the set, s"],
        rows=rows, settings=vars(options), figures=found,
    )  # fmt: skip


def publish_lines(found: dict[str, list[Row]], options: Any) -> None:
    """How straight the cost is: least squares in N, B, K and the number of pixels."""
    rows = []
    for name, values in CHANGES.items():
        key = "sampling_seconds" if name == "N" else "step_seconds"
        measured = [median(found[f"{name}={value}"], key) for value in values]
        abscissa = np.square(values) if name == "size" else np.array(values)
        slope, start = np.polyfit(abscissa, measured, 1)
        off = np.abs(measured / (start + slope * abscissa) - 1).max()
        what = {"N": "sampling against N", "size": "step against pixels"}
        rows.append([
            what.get(name, f"step against {name}"), f"{1000 * start:.3g}",
            f"{1000 * slope:.3g}", f"{100 * off:.1f} %",
        ])  # fmt: skip
    publish(
        "scaling_lines", title=f"Straight lines through these times ({options.strategy})",
        columns=["time", "ms at 0", "ms for each", "furthest from the line"], rows=rows,
        settings=vars(options), figures=rows,
    )  # fmt: skip


def run_variant(options: Any) -> None:
    torch.set_num_threads(1)
    name, value = options.variant.split("=")
    setting = STANDARD | {name: int(value)}
    sampling: list[float] = []
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
        sensitive = mapped_set(Path(folder), setting["N"], setting["size"])
        started = time.perf_counter()
        sensitive.fingerprint(b"key")
        naming = time.perf_counter() - started
        step = dp_sgd_step(sensitive, setting, options.strategy, sampling)
        seconds = seconds_per_call(step, device=CPU, calls=options.steps)
    report(
        step_seconds=seconds, sampling_seconds=sampling[1:], naming_seconds=naming,
        anonymous_mib=peak.mib["RssAnon"], file_mib=peak.mib["RssFile"],
    )  # fmt: skip


def mapped_set(folder: Path, num_images: int, size: int) -> ImageSet:
    """N black images of 10 classes from sparse files."""
    shape = (num_images, 3, size, size)
    np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    np.lib.format.open_memmap(folder / "labels.npy", "w+", np.int64, (num_images,))
    (folder / "class_names.json").write_text('["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]')
    return load_image_set(f"folder:{folder}", "train", preparation=Preparation(size, "rgb"))


def dp_sgd_step(
    sensitive: ImageSet, setting: dict[str, int], strategy: str, sampling: list[float]
) -> Callable[[], None]:
    """The step of `finetune`, with B images whatever the coins say; notes the sampling's time."""
    torch.manual_seed(0)
    network = UNetConfig(
        image_size=setting["size"],
        num_channels=3,
        num_classes=10,
        base_channels=8,
        attention_resolutions=(),
    )
    denoiser = Denoiser(UNet(network)).train()
    config = FinetuneConfig(learning_rate=3e-4, noise_multiplicity=setting["K"])
    engine = Engine(strategy, micro_batch_size=setting["B"])
    clipped_sum_of = ClippedGradientSum(denoising_loss, denoiser, clip_norm=1e-3, engine=engine)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=config.learning_rate, fused=True)
    source, generator = secure_source(), torch.Generator().manual_seed(0)
    num_images, num_drawn = setting["N"], setting["B"]

    def step() -> None:
        started = time.perf_counter()
        poisson_sample(source, num_images, rate=num_drawn / num_images)
        sampling.append(time.perf_counter() - started)
        drawn = torch.randint(num_images, (num_drawn,), generator=generator)
        examples = noisy_examples(sensitive, drawn, denoiser, config, seed=0, step=0)
        gradient = noisy_mean_gradient(
            clipped_sum_of(examples), source=source, clip_norm=1e-3, noise_multiplier=1.0,
            expected_batch_size=num_drawn,
        )  # fmt: skip
        for name, parameter in denoiser.named_parameters():
            parameter.grad = gradient[name]
        optimizer.step()

    return step


class PeakMemory:
    """The largest anonymous and file-backed resident memory of this process, looked at often.

    Pages of a mapped file are the system's to take back; what a set costs is the anonymous part.
    """

    def __init__(self) -> None:
        self.mib = {"RssAnon": 0.0, "RssFile": 0.0}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            for line in Path("/proc/self/status").read_text().splitlines():
                kind, _, rest = line.partition(":")
                if kind in self.mib:
                    self.mib[kind] = max(self.mib[kind], int(rest.split()[0]) / 1024)


if __name__ == "__main__":
    main()
