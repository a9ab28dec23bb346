"""Stages 6 and 7: draw synthetic images from the finished model, and compare them with real test
images.

The model is released through the ledger, so `generate` costs nothing. `evaluate_images` reads
real images: the numbers that it reports are not covered by the guarantee, and the privacy
statement says so.
"""

import json
from functools import partial
from typing import Any

import torch

from privimage.diffusion.build import new_denoiser
from privimage.diffusion.generate import class_labels, drawn_batches, sample_grid
from privimage.evaluation.evaluate import evaluate
from privimage.files.durable import write_json_durably
from privimage.release.image_files import ImageParts, load_images, save_images
from privimage.run_folder import manifest
from privimage.run_folder.run import Run, plain, save_picture
from privimage.run_folder.training_context import TrainingContext
from privimage.stages.moments_and_sketches import sketch_inputs, sketches_of
from privimage.stages.semantic import trained_query_network


def generate_inputs(run: Run) -> dict[str, Any]:
    return {
        "model": manifest.results(run.folder, "finetune"),
        "sampling": plain(run.config.sampling),
        "class_names": list(run.sets.sensitive.class_names),
        "seed": run.config.seed,
        **sketch_inputs(run),
    }


def generate(run: Run) -> list[str]:
    """Draw class-balanced images from the finished model."""
    config = run.config.sampling
    denoiser = new_denoiser(run.config, run.sets.sensitive).to(run.device)
    run.load_weights(run.folder / "model.safetensors", denoiser)
    names = run.sets.sensitive.class_names
    parts = ImageParts(partial(run.checkpoint, of="generate"))
    for images in drawn_batches(
        denoiser,
        config,
        generator=torch.Generator(run.device).manual_seed(run.config.seed),
        compute=run.compute,
        done=run.world.broadcast(parts.num_images),
        sketches=sketches_of(run),
        world=run.world,
    ):
        if run.world.is_leader:
            parts.add(images)
            run.progress("generate", parts.num_images, config.num_images)
    if not run.world.is_leader:
        return []
    labels = class_labels(config.num_images, denoiser.unet.config.num_classes)
    save_images(run.folder / "images.npz", parts, labels, names, insecure=run.source.insecure)
    drawn = load_images(run.folder / "images.npz")
    save_picture(
        run.folder / "samples.png", sample_grid(drawn.images, drawn.labels, names, per_class=10)
    )
    return ["images.npz", "samples.png"]


def evaluate_inputs(run: Run) -> dict[str, Any]:
    """FID is measured once its weights are there, also of a run that was evaluated without; it is
    not lost when they go.
    """
    inputs = {
        "images": manifest.results(run.folder, "generate"),
        "query_network": manifest.results(run.shared, "query_network"),
        "evaluation": plain(run.config.evaluation),
        "real_test": run.real_test_id,
        "seed": run.config.seed,
    }
    with_fid = inputs | {"fid": True}
    before = (manifest.read(run.folder, "evaluate") or {}).get("inputs")
    is_wanted = run.real_test_id is not None and run.inception_weights is not None
    return with_fid if is_wanted or before == with_fid else inputs


def evaluate_images(run: Run) -> list[str]:
    """Frechet distance and classifier accuracy against real test images, where there are any."""
    metrics: dict[str, Any] = {}
    if run.sets.real_test is not None:
        network = trained_query_network(run)
        metrics = evaluate(
            load_images(run.folder / "images.npz") if run.world.is_leader else None,
            real_test=run.sets.real_test,
            real_train=run.sets.sensitive if run.config.evaluation.real_ceiling else None,
            network=network,
            config=run.config.evaluation,
            with_classifiers=run.config.data.conditional,
            seed=run.config.seed,
            device=run.device,
            inception_weights=run.inception_weights,
            new_checkpoint=partial(run.checkpoint, of="evaluate"),
            context=TrainingContext(
                progress=run.progress, world=run.world, precision=run.config.performance.precision
            ),
        )
    if not run.world.is_leader:
        return []
    facts = json.loads((run.shared / "query_network.json").read_text())
    metrics["query_network_accuracy"] = facts["public_validation_accuracy"]
    write_json_durably(run.folder / "metrics.json", metrics)
    return ["metrics.json"]
