"""What bfloat16 does to images and to their Frechet distance, apart from everything else.

    python bench/precision.py RUN [--images 2000] [--seeds 5]

RUN is a finished run folder of any claim's arm. Its private model draws the same images (same
weights, noise and labels) in float32 and in bfloat16; both are held against the real test images in
float32 features of the run's query network. The difference is paired by seed; beside it stands what
another seed alone changes.
"""

import argparse
import dataclasses
import statistics
from functools import partial
from pathlib import Path

import torch
from harness import publish

from artifact.judging.intervals import mean_interval
from privimage.audit.probes import ledger_of
from privimage.diffusion.build import new_denoiser
from privimage.diffusion.generate import generate_images
from privimage.evaluation.evaluate import frechet_to_real
from privimage.evaluation.features import query_network_extractor
from privimage.machine.hardware import Compute, usable_cores
from privimage.privacy.rng import insecure_source
from privimage.run_folder.checkpoint import load_weights
from privimage.run_folder.run import ImageSets, Run
from privimage.settings.config import RunConfig, load_config
from privimage.stages.pipeline import load_image_sets
from privimage.stages.semantic import trained_query_network

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml")
    sets = load_image_sets(config)
    run = readable(config, sets, options.run)
    denoiser = new_denoiser(run.config, run.sets.sensitive).eval()
    load_weights(options.run / "model.safetensors", denoiser)
    extractor = query_network_extractor(trained_query_network(run), device=CPU)
    if sets.real_test is None:
        raise SystemExit("this run has no real test images (data.evaluate_on)")
    draw = partial(
        generate_images, denoiser, dataclasses.replace(config.sampling, num_images=options.images)
    )
    rows, found = [], []
    for seed in range(options.seeds):
        distances, pixels = {}, {}
        for precision in ("float32", "bfloat16"):
            images, _ = draw(
                generator=torch.Generator().manual_seed(seed),
                compute=Compute(usable_cores(), precision),
            )
            pixels[precision] = images.float()
            distances[precision] = frechet_to_real(images.split(500), sets.real_test, extractor)
        off = (pixels["float32"] - pixels["bfloat16"]).square().mean().sqrt().item()
        found.append({"seed": seed, "rms_pixels": off, **distances})
        cells = [f"{distances[p]:.4f}" for p in ("float32", "bfloat16")]
        gap = distances["bfloat16"] - distances["float32"]
        rows.append([str(seed), *cells, f"{gap:+.4f}", f"{off:.2f}"])
    rows.append(summary(found))
    columns = ["seed", "float32", "bfloat16", "difference", "RMS difference of pixels (of 255)"]
    title = f"Frechet distance (query network) of {options.images} images of {config.name}"
    publish(
        "precision", title=title, columns=columns, rows=rows,
        settings={"images": options.images, "seeds": options.seeds, "run": config.name},
        figures={"seeds": found},
    )  # fmt: skip


def summary(found: list[dict]) -> list[str]:
    """Means; the interval of the paired difference; the spread that seeds alone make."""
    plain = [row["float32"] for row in found]
    gaps = [row["bfloat16"] - row["float32"] for row in found]
    low, high = mean_interval(gaps)
    return [
        "mean", f"{statistics.fmean(plain):.4f} ± {statistics.stdev(plain):.4f}",
        f"{statistics.fmean(row['bfloat16'] for row in found):.4f}",
        f"{statistics.fmean(gaps):+.4f} (95 %: {low:+.4f} to {high:+.4f})",
        f"{statistics.fmean(row['rms_pixels'] for row in found):.2f}",
    ]  # fmt: skip


def readable(config: RunConfig, sets: ImageSets, folder: Path) -> Run:
    """The run as its stages see it, with a ledger in memory: nothing is asked or charged."""
    source = insecure_source(0, insecure_for_reproduction=True)
    ledger = ledger_of({}, source)
    own, beside = folder / "query_network.safetensors", folder.parent / "shared"
    shared = folder if own.exists() else beside
    return Run(config=config, sets=sets, folder=folder, shared=shared, ledger=ledger, source=source)


if __name__ == "__main__":
    main()
