"""How few calls of the network an image needs: Frechet distance and images/s of every sampler.

    python bench/solvers.py RUN [--images 1500] [--seeds 3]

RUN is a finished run folder of any claim's arm. Its private model draws images by each sampler from
the same noise; they are held against the real test images in the run's query network. The first row
is the paper's sampler as it is written, in float32 without workers; all others use the machine as
runs do. Rows take turns within a seed.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from harness import publish
from precision import CPU, readable

from privimage.diffusion.build import new_denoiser
from privimage.diffusion.generate import generate_images
from privimage.diffusion.sampler import num_calls
from privimage.evaluation.evaluate import frechet_to_real
from privimage.evaluation.features import query_network_extractor
from privimage.machine.hardware import Compute
from privimage.machine.memory import keep_freed_blocks
from privimage.run_folder.checkpoint import load_weights
from privimage.run_folder.run import compute_of
from privimage.settings.config import SamplingConfig, load_config
from privimage.stages.pipeline import load_image_sets
from privimage.stages.semantic import trained_query_network


class Solver(NamedTuple):
    """A sampler with its steps."""

    name: Literal["ddim", "heun", "dpm_solver"]
    steps: int


PAPER = Solver("ddim", 50)
SOLVERS = (
    PAPER,
    Solver("ddim", 20),
    Solver("heun", 18),
    *(Solver("dpm_solver", steps) for steps in (20, 15, 12, 10, 8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    keep_freed_blocks()
    config = load_config(options.run / "config.yaml")
    sets = load_image_sets(config)
    if sets.real_test is None:
        raise SystemExit("this run has no real test images (data.evaluate_on)")
    run = readable(config, sets, options.run)
    denoiser = new_denoiser(config, sets.sensitive).eval()
    load_weights(options.run / "model.safetensors", denoiser)
    extractor = query_network_extractor(trained_query_network(run), device=CPU)
    ways = {("plain eager, float32", PAPER): Compute()}
    ways |= {("as runs do", solver): compute_of(config) for solver in SOLVERS}
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for (how, solver), compute in ways.items():
            wanted = SamplingConfig(
                num_images=options.images, sampler=solver.name, num_steps=solver.steps
            )
            started = time.perf_counter()
            images, _ = generate_images(
                denoiser, wanted, generator=torch.Generator().manual_seed(seed), compute=compute
            )
            seconds = time.perf_counter() - started
            distance = frechet_to_real(images.split(500), sets.real_test, extractor)
            row = f"{solver.name}, {solver.steps} steps, {how}"
            found.setdefault(row, []).append({"seconds": seconds, "frechet": distance})
    first = statistics.median(one["seconds"] for one in next(iter(found.values())))
    rows = []
    for (row, results), (_, solver) in zip(found.items(), ways, strict=True):
        seconds = statistics.median(one["seconds"] for one in results)
        distances = [one["frechet"] for one in results]
        rows.append([
            row, str(num_calls(*solver)),
            f"{options.images / seconds:.0f}", f"{first / seconds:.2f}",
            f"{statistics.fmean(distances):.2f} ± {statistics.stdev(distances):.2f}",
        ])  # fmt: skip
    columns = ["sampler", "calls an image", "images/s", "times the first", "Frechet distance"]
    name = f"solvers_{config.name.partition('/')[0]}"
    publish(
        name, title=f"{options.images} images of {config.name}, {config.data.image_size} pixels",
        columns=columns, rows=rows,
        settings={"images": options.images, "seeds": options.seeds, "run": config.name},
        figures={"found": found},
    )  # fmt: skip


if __name__ == "__main__":
    main()
