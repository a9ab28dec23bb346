"""Pre-training on the public subset (paper: stage 2; docs/method.md, 5): ordinary diffusion
training, no privacy involved.

Everything here is public. Batches and noise are functions of (seed, step) alone, so a run that
was interrupted continues with exactly the numbers that it would have had.
"""

import numpy as np
import torch
from torch import Tensor

from privimage.data.image_set import ImageSet, to_model_range
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.ema import Ema
from privimage.diffusion.loss import denoising_loss, drop_labels, sample_noise_levels
from privimage.gradients.mean_gradient import MeanGradient
from privimage.machine.hardware import Compute, resident
from privimage.run_folder.runlog import RunLog
from privimage.run_folder.training_context import BY_ITSELF, TrainingContext
from privimage.settings.config import PretrainConfig


def step_generator(seed: int, step: int, *, stage: int, device: torch.device) -> torch.Generator:
    """The generator of one training step: independent streams for every (seed, stage, step)."""
    word = np.random.SeedSequence([seed, stage, step]).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(word))


def batch_indices(num_images: int, *, batch_size: int, step: int, seed: int) -> Tensor:
    """Positions [step*batch, (step+1)*batch) of an endless stream of shuffled passes over the
    set.
    """
    first, last = step * batch_size, (step + 1) * batch_size
    passes = range(first // num_images, (last - 1) // num_images + 1)
    orders = [np.random.default_rng([seed, 5, p]).permutation(num_images) for p in passes]
    stream = np.concatenate(orders)
    offset = passes[0] * num_images
    return torch.from_numpy(stream[first - offset : last - offset])


def pretrain(
    denoiser: Denoiser,
    subset: ImageSet,
    config: PretrainConfig,
    *,
    conditional: bool,
    seed: int,
    compute: Compute = Compute(),  # noqa: B008 (it is frozen)
    context: TrainingContext = BY_ITSELF,
) -> Ema:
    """Train `denoiser` in place on labelled public images; returns the averaged weights.

    `subset.labels` are labels of the sensitive task, or num_classes for "no label".
    Unconditional networks get none. At least one step is taken.
    """
    checkpoint, world = context.checkpoint, context.world
    device = next(denoiser.parameters()).device
    num_steps = -(-config.num_images // config.batch_size)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=config.learning_rate, fused=True)
    ema = Ema(denoiser, rate=config.ema_rate)
    step = 0

    # continue where an interrupted run stopped
    if (state := world.broadcast(checkpoint.load())) is not None:
        denoiser.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = RunLog(context.stats, stage="pretrain")
    denoiser.train()
    gradient_of = MeanGradient(denoising_loss, denoiser, compute=compute, world=world)
    pixels = resident(subset.images, device)

    while step < num_steps and not world.broadcast_flag(step > 0 and context.should_stop()):
        # a batch of public images, flipped at random
        generator = step_generator(seed, step, stage=1, device=device)
        indices = batch_indices(len(subset), batch_size=config.batch_size, step=step, seed=seed)
        images = to_model_range(pixels[indices.to(pixels.device)].to(device))
        if config.horizontal_flip:
            flipped = torch.rand(len(images), generator=generator, device=device) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        labels = None
        if conditional:
            labels = drop_labels(
                subset.labels[indices].to(device),
                null_label=denoiser.null_label,
                rate=config.label_dropout,
                generator=generator,
            )

        # one noise level and one noise image each (K = 1)
        sigma = sample_noise_levels(
            len(images), generator=generator, largest=denoiser.largest_noise
        )[:, None]
        noise = torch.randn(images[:, None].shape, generator=generator, device=device)
        loss = gradient_of((images, labels, sigma, noise))
        optimizer.step()
        ema.update(step)
        step += 1

        # tell, and save now and then
        context.progress("pretrain", step, num_steps)
        if log.is_due(step, num_steps):
            log.write(step=step, images=step * config.batch_size, loss=loss.item())
        if checkpoint.is_due():
            checkpoint.save(_state(denoiser, ema, optimizer, step))
    return ema


def _state(denoiser: Denoiser, ema: Ema, optimizer: torch.optim.Optimizer, step: int) -> dict:
    return {
        "model": denoiser.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
