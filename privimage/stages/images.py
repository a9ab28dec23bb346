"""Stages 6 and 7: draw synthetic images from the finished model, and compare them with real test
images.

The model is released through the ledger, so `generate` costs nothing. `evaluate_images` reads
real images: the numbers that it reports are not covered by the guarantee, and the privacy
statement says so.
"""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privimage.durable import write_durably, write_json_durably
from privimage.evaluation.evaluate import evaluate
from privimage.evaluation.generate import generate_images, sample_grid
from privimage.stages.model import new_denoiser
from privimage.stages.run import Run, outputs_of, plain, save_picture
from privimage.stages.semantic import trained_query_network


def generate_inputs(run: Run) -> dict[str, Any]:
    return {
        "model": outputs_of(run.folder, "finetune"),
        "sampling": plain(run.config.sampling),
        "seed": run.config.seed,
    }


def generate(run: Run) -> list[str]:
    """Draw class-balanced images from the finished model."""
    denoiser, config = new_denoiser(run), run.config.sampling
    run.load_weights(run.folder / "model.safetensors", denoiser)
    names = run.sets.sensitive.class_names
    images, labels = generate_images(
        denoiser.eval(),
        num_images=config.num_images,
        num_classes=len(names) if run.config.data.conditional else 0,
        sampler=config.sampler,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        generator=torch.Generator(run.device).manual_seed(run.config.seed),
        device=run.device,
        compute=run.compute,
        on_progress=lambda done: run.progress("generate", done, config.num_images),
        checkpoint=run.checkpoint("generate", of="generate"),
        world=run.world,
    )
    if not run.world.leads:
        return []
    save_images(run.folder / "images.npz", images, labels, names)
    save_picture(run.folder / "samples.png", sample_grid(images, labels, names, per_class=10))
    return ["images.npz", "samples.png"]


def save_images(path: Path, images: Tensor, labels: Tensor, names: tuple[str, ...]) -> None:
    """One npz: images uint8 (N, C, H, W), labels int64 (N,), class_names."""
    buffer = io.BytesIO()
    arrays = {"images": images.numpy(), "labels": labels.numpy(), "class_names": np.array(names)}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_durably(path, buffer.getvalue())


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def evaluate_inputs(run: Run) -> dict[str, Any]:
    return {
        "images": outputs_of(run.folder, "generate"),
        "query_network": outputs_of(run.shared, "query_network"),
        "evaluation": plain(run.config.evaluation),
        "real_test": run.real_test_id,
        "seed": run.config.seed,
    }


def evaluate_images(run: Run) -> list[str]:
    """Frechet distance and classifier accuracy against real test images, where there are any."""
    metrics: dict[str, Any] = {}
    if run.sets.real_test is not None:
        images = labels = torch.empty(0)
        if run.world.leads:
            images, labels = load_images(run.folder / "images.npz")
        images, labels = run.world.tell((images, labels))
        network = trained_query_network(run)
        metrics = evaluate(
            images,
            labels,
            real_test=run.sets.real_test,
            real_train=run.sets.sensitive if run.config.evaluation.real_ceiling else None,
            network=network,
            config=run.config.evaluation,
            with_classifiers=run.config.data.conditional,
            seed=run.config.seed,
            device=run.device,
            on_progress=partial(run.progress, "evaluate"),
            new_checkpoint=partial(run.checkpoint, of="evaluate"),
            world=run.world,
        )
    if not run.world.leads:
        return []
    facts = json.loads((run.shared / "query_network.json").read_text())
    metrics["query_network_accuracy"] = facts["public_validation_accuracy"]
    write_json_durably(run.folder / "metrics.json", metrics)
    return ["metrics.json"]
