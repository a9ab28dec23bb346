"""Stages 4 and 5: pre-train the diffusion model on the public subset, fine-tune it with DP-SGD.

Only `finetune_model` touches the sensitive set, and only through `finetune`, which charges the
ledger.
"""

import dataclasses
from functools import partial
from typing import Any

from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.diffusion.build import new_denoiser, unet_config
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss
from privimage.files.durable import write_json_durably
from privimage.gradients.engine import Engine
from privimage.gradients.engine_choice import choose_engine
from privimage.privacy.dp_sgd import DP_SGD
from privimage.release.released_model import about_model
from privimage.run_folder import manifest
from privimage.run_folder.checkpoint import PAID_TIME_SHARE, save_weights
from privimage.run_folder.public_weights import START_FROM
from privimage.run_folder.run import Run, plain
from privimage.semantics.selection import public_subset, unlabelled
from privimage.stages.semantic import read_selection, rests_on_insecure_query
from privimage.stages.starting_weights import starting_denoiser
from privimage.training.finetune import finetune, made_up_examples
from privimage.training.pretrain import pretrain


def pretrain_inputs(run: Run) -> dict[str, Any]:
    return {
        "selection": manifest.results(run.folder, "selection"),
        "network": plain(unet_config(run.config, run.sets.sensitive)),
        "pretrain": plain(run.config.pretrain),
        "conditional": run.config.data.conditional,
        **largest_noise(run),
        "seed": run.config.seed,
        **({START_FROM: run.start_from.identity} if run.start_from else {}),
    }


def largest_noise(run: Run) -> dict[str, float]:
    """The noise level up to which the network is trained, where there is one."""
    moments = run.config.moments
    return {} if moments is None else {"largest_noise": moments.sketch_noise_level}


def pretrain_model(run: Run) -> list[str]:
    """Train on the public subset; without pre-training what it would begin with is the result."""
    strategy, names = run.config.selection.strategy, run.sets.sensitive.class_names
    subset = None
    if strategy == "all":  # the whole public set, without labels
        subset = unlabelled(run.sets.public, names)
    elif strategy != "none":
        selection = run.world.broadcast(read_selection(run) if run.world.is_leader else [])
        subset = public_subset(run.sets.public, selection, names)
    weights, averaged = train_on(run, subset)
    if not run.world.is_leader:
        return []
    insecure = rests_on_insecure_query(run)
    save_weights(run.folder / "pretrained.safetensors", weights, insecure=insecure)
    save_weights(run.folder / "pretrained_ema.safetensors", averaged, insecure=insecure)
    return ["pretrained.safetensors", "pretrained_ema.safetensors"]


def train_on(run: Run, subset: ImageSet | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights after pre-training on a subset, and their average; None is no training."""
    denoiser = starting_denoiser(run)
    if subset is None:
        return denoiser.state_dict(), denoiser.state_dict()
    ema = pretrain(
        denoiser,
        subset,
        run.config.pretrain,
        conditional=run.config.data.conditional,
        seed=run.config.seed,
        compute=run.compute,
        context=run.training("pretrain"),
    )
    return denoiser.state_dict(), ema.parameters


def finetune_inputs(run: Run) -> dict[str, Any]:
    return {
        "pretrained": manifest.results(run.folder, "pretrain"),
        "finetune": plain(run.config.finetune),
        "mechanism": dataclasses.asdict(run.ledger.reserved[DP_SGD]),
        "clip_norm": run.config.privacy.clip_norm,
        **largest_noise(run),
        "sensitive": run.data_id,
        "public_size": run.sets.sensitive.public_size,
        "insecure": run.source.insecure,
        "seed": run.config.seed,
    }


def finetune_model(run: Run) -> list[str]:
    """DP-SGD on the sensitive images; only the averaged weights are kept."""
    denoiser = new_denoiser(run.config, run.sets.sensitive).to(run.device)
    averaged = run.config.finetune.start_from == "ema"
    start = "pretrained_ema.safetensors" if averaged else "pretrained.safetensors"
    run.load_weights(run.folder / start, denoiser)
    average, steps_taken = finetune(
        denoiser,
        run.sets.sensitive,
        run.config.finetune,
        clip_norm=run.config.privacy.clip_norm,
        ledger=run.ledger,
        source=run.source,
        seed=run.config.seed,
        engine=finetune_engine(run, denoiser),
        on_release=run.on_release,
        context=run.training("finetune", time_share=PAID_TIME_SHARE),
    )
    if not run.world.is_leader:
        return []
    save_weights(
        run.folder / "model.safetensors",
        average.parameters,
        insecure=run.source.insecure,
        about=about_model(
            unet_config(run.config, run.sets.sensitive),
            run.sets.sensitive,
            begins_with_sketches=run.config.moments is not None,
        ),
    )
    steps = {"steps_taken": steps_taken, "steps_charged": run.ledger.charged(DP_SGD)}
    write_json_durably(run.folder / "finetune.json", steps)
    return ["model.safetensors", "finetune.json"]


def finetune_engine(run: Run, denoiser: Denoiser) -> Engine:
    """The engine of per-image gradients, timed on made-up images where it is left open.

    A run that is continued keeps the engine that it began with: another one rounds differently.
    """
    kept = run.checkpoint("engine", of="finetune")
    known = kept.load()
    if known is None and run.world.is_leader:
        known = dataclasses.asdict(chosen_engine(run, denoiser))
        kept.save(known)
    return Engine(**run.world.broadcast(known or {}))


def chosen_engine(run: Run, denoiser: Denoiser) -> Engine:
    """The engine that the settings name, or the one that is timed as the fastest."""
    mechanism = run.ledger.reserved[DP_SGD]
    batch_size = max(1, round(mechanism.sampling_rate * run.sets.sensitive.public_size))
    return choose_engine(
        denoising_loss,
        denoiser,
        partial(made_up_examples, denoiser, run.config.finetune),
        num_images=mechanism.count * batch_size,
        batch_size=batch_size,
        wanted=run.config.performance,
    )
