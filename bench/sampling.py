"""How fast images are drawn: plain eager sampling beside workers, bfloat16 and compiled code.

    python bench/sampling.py [--batch 16] [--steps 50] [--threads 2] [--compiled] [--device cuda]

The last column says how far the images are from the eager float32 ones (pixels from 0 to 255).
"""

import sys
from typing import Any

import torch
from harness import interleaved, median, parser, publish, report, seconds_per_call, spread
from paper_network import paper_network

from privimage.diffusion.generate import generate_images
from privimage.machine.hardware import Compute
from privimage.settings.config import SamplingConfig

EAGER = {
    "plain eager, float32": (False, "float32"),
    "workers, float32": (True, "float32"),
    "workers, bfloat16": (True, "bfloat16"),
}
COMPILED = {
    "workers, float32, compiled": (True, "float32"),
    "workers, bfloat16, compiled": (True, "bfloat16"),
}


def main() -> None:
    options_of = parser(__doc__)
    for name, default in {"batch": 16, "steps": 50, "size": 32, "threads": 2}.items():
        options_of.add_argument(f"--{name}", type=int, default=default)
    options_of.add_argument("--compiled", action="store_true", help="compiled rows too (minutes)")
    options = options_of.parse_args()
    if options.variant:
        run_variant(options)
        return
    variants = [*EAGER, *(COMPILED if options.compiled else {})]
    found = interleaved(__file__, variants, rounds=options.rounds, options=sys.argv[1:])
    plain, *_ = variants
    reference = torch.tensor(found[plain][0]["pixels"], dtype=torch.float32)
    rows = []
    for name, results in found.items():
        seconds, (low, high) = median(results, "seconds"), spread(results, "seconds")
        off = torch.tensor(results[0].pop("pixels"), dtype=torch.float32) - reference
        rows.append([
            name, f"{options.batch / seconds:.2f}",
            f"{median(found[plain], 'seconds') / seconds:.2f}", f"{low:.2f} to {high:.2f}",
            f"{median(results, 'peak_mib'):,.0f}",
            f"{off.square().mean().sqrt():.2f}, at most {off.abs().max():.0f}",
        ])  # fmt: skip
        for result in results[1:]:
            del result["pixels"]
    columns = ["sampler", "images/s", "times plain eager", "s, fastest to slowest", "peak MiB"]
    title = f"Sampling: batch {options.batch}, {options.steps} steps, {options.size} pixels"
    publish(
        f"sampling_{options.device}", title=f"{title}, {options.device}, {options.threads} threads",
        columns=[*columns, "root mean square difference"], rows=rows, settings=vars(options),
        figures=found, device=torch.device(options.device),
    )  # fmt: skip


def run_variant(options: Any) -> None:
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    spread_out, precision = (EAGER | COMPILED)[options.variant]
    workers = options.threads if spread_out and device.type == "cpu" else 1
    compute = Compute(workers, precision, options.variant in COMPILED)
    denoiser = paper_network(options.size, device)
    drawn: list[torch.Tensor] = []

    def draw() -> None:
        images, _ = generate_images(
            denoiser,
            SamplingConfig(
                num_images=options.batch, num_steps=options.steps, batch_size=options.batch
            ),
            compute=compute,
            generator=torch.Generator(device).manual_seed(0),
        )
        drawn.append(images)

    times = seconds_per_call(draw, device=device, calls=1)
    report(seconds=times, pixels=drawn[-1].flatten().tolist())


if __name__ == "__main__":
    main()
