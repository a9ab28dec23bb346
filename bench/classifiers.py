"""How fast the classifiers train: bfloat16 and channels last beside float32 and channels first.

    python bench/classifiers.py [--size 28] [--batch 128] [--threads 2] [--device cuda]

The query network that own images of 28 pixels get, and the CNN of the evaluation. A step is
forward, backward and SGD. The first row of each is the floor: what torch does by itself.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from harness import interleaved, median, parser, publish, report, seconds_per_call, spread
from torch import nn

from privimage.classifiers.downstream import UtilityCnn
from privimage.classifiers.query_network import QueryNetwork
from privimage.machine.hardware import autocast
from privimage.machine.memory import keep_freed_blocks

FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
VARIANTS = {
    f"{network}, {precision}, {layout}": (network, precision, layout)
    for network in ("query network", "CNN")
    for precision in ("float32", "bfloat16")
    for layout in FORMATS
}


def main() -> None:
    options_of = parser(__doc__)
    for name, default in {"batch": 128, "size": 28, "threads": 2}.items():
        options_of.add_argument(f"--{name}", type=int, default=default)
    options = options_of.parse_args()
    if options.variant:
        run_variant(options)
        return
    found = interleaved(__file__, [*VARIANTS], rounds=options.rounds, options=sys.argv[1:])
    rows, floor = [], 0.0
    for name, results in found.items():
        seconds, (low, high) = median(results, "seconds"), spread(results, "seconds")
        if "float32, channels first" in name:
            floor = seconds
        rows.append([
            name, f"{options.batch / seconds:.0f}", f"{floor / seconds:.2f}",
            f"{low:.3f} to {high:.3f}", f"{median(results, 'peak_mib'):,.0f}",
        ])  # fmt: skip
    title = f"Classifiers: batch {options.batch}, {options.size} pixels"
    publish(
        f"classifiers_{options.device}",
        title=f"{title}, {options.device}, {options.threads} threads",
        columns=["training", "images/s", "times the floor", "s, fastest to slowest", "peak MiB"],
        rows=rows, settings=vars(options), figures=found, device=torch.device(options.device),
    )  # fmt: skip


def run_variant(options: Any) -> None:
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    keep_freed_blocks()
    name, precision, layout = VARIANTS[options.variant]
    network = (query_network() if name == "query network" else cnn(options.size)).to(device)
    network = network.to(memory_format=FORMATS[layout])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images = torch.rand(options.batch, 1, options.size, options.size, device=device)
    labels = torch.arange(options.batch, device=device) % 10

    def step() -> None:
        with autocast(device, precision):
            logits = network(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    report(seconds=seconds_per_call(step, device=device, calls=8))


def query_network() -> nn.Module:
    return QueryNetwork(100, num_channels=1, widths=(32, 64, 128), blocks=(1, 1, 1), block="basic")


def cnn(size: int) -> nn.Module:
    return UtilityCnn(10, num_channels=1, image_size=size, width=32)


if __name__ == "__main__":
    main()
