"""Fine-tuning on the sensitive images with DP-SGD and noise multiplicity (paper: stage 3;
docs/method.md, 6).

One step: charge the ledger; draw a Poisson sample; clip each image's gradient of its loss
averaged over K noise copies; sum; add Gaussian noise once; divide by the public expected batch;
Adam. An empty sample takes its noisy step like any other. Private: images, labels, which images
were drawn, un-noised gradients; none of it is logged or kept. Released: the weights after each
step, (epsilon, delta)-DP as the ledger accounts them. A step that a crash took away stays spent;
only with a fixed seed is it done again, being then the very same step.
"""

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from privimage.data.image_set import ImageSet, made_up_images, to_model_range
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.ema import Ema
from privimage.diffusion.loss import denoising_loss, noise_levels
from privimage.errors import RunFolderError
from privimage.gradients.engine import Engine
from privimage.machine.hardware import resident
from privimage.privacy.clipping import ClippedGradientSum
from privimage.privacy.dp_sgd import DP_SGD, drawn_for_images, noisy_mean_gradient
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import RandomSource
from privimage.privacy.sampling import poisson_sample
from privimage.run_folder.runlog import Observer, RunLog, unobserved
from privimage.run_folder.training_context import BY_ITSELF, TrainingContext
from privimage.settings.config import FinetuneConfig

logger = logging.getLogger(__name__)
EXAMPLES_AT_ONCE = 256  # about: bounds the memory


class Finetuned(NamedTuple):
    """The averaged weights, and how many of the charged steps are in them."""

    average: Ema
    steps_taken: int


def finetune(
    denoiser: Denoiser,
    sensitive: ImageSet,
    config: FinetuneConfig,
    *,
    clip_norm: float,
    ledger: PrivacyLedger,
    source: RandomSource,
    seed: int,
    engine: Engine = Engine("folded", micro_batch_size=48),  # noqa: B008 (it is frozen)
    on_release: Observer = unobserved,
    context: TrainingContext = BY_ITSELF,
) -> Finetuned:
    """Fine-tune `denoiser` in place; returns the averaged weights, which are post-processing of the
    private ones.

    The ledger must hold a reservation named "dp_sgd" (noise multiplier, sampling rate, steps). The
    loop runs until that reservation is charged in full. A step lost in a crash stays spent and is
    not taken again; a source with a fixed seed takes the very same step again instead, at no
    charge. A training that is stopped early leaves its other steps unspent. `on_release` gets
    (step, noisy mean gradient) of each step: what an observer of all weights can know.

    Of several processes the leader charges its ledger, draws the one Poisson sample from its source
    and tells it; each process clips its part; the sums meet on the leader alone, which adds the
    noise once and tells the result.
    """
    checkpoint, world = context.checkpoint, context.world
    device = next(denoiser.parameters()).device
    mechanism = ledger.reserved[DP_SGD]
    expected_batch_size = mechanism.sampling_rate * sensitive.public_size
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=config.learning_rate, fused=True)
    ema = Ema(denoiser, rate=config.ema_rate)
    taken, step = 0, world.broadcast(ledger.charged(DP_SGD))

    # continue where an interrupted run stopped: `step` counts charges, `taken` what the weights
    # have seen of them; the steps between were lost with the process that took them
    if (state := checkpoint.load()) is not None:
        check_ledger_is_not_behind(ledger, state["charged"])  # else charges would be forgotten
    if (state := world.broadcast(state)) is not None:
        denoiser.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        taken = state["taken"]
    if source.insecure:
        step = taken  # nothing is lost: the same steps give the same weights, and are paid for
    log = RunLog(context.stats, stage="finetune")
    denoiser.eval()  # no dropout: the masks of the other images would tell who is there
    sensitive = replace(sensitive, images=resident(sensitive.images, device))
    clipped_sum_of = ClippedGradientSum(
        denoising_loss, denoiser, clip_norm=clip_norm, engine=engine
    )
    made_up = made_up_examples(denoiser, config, clipped_sum_of.images_at_once)
    clipped_sum_of.check_independence(made_up)  # before it sees a real image
    round_size = clipped_sum_of.images_at_once * engine.num_workers * world.size
    # whole rounds of all workers: only the last one has passes that are filled up, or missing
    at_once = round_size * max(1, EXAMPLES_AT_ONCE // round_size)

    while step < mechanism.count and not world.broadcast_flag(taken > 0 and context.should_stop()):
        # the step is paid for before anything of it can be seen
        drawn = torch.empty(0, dtype=torch.int64)
        if world.is_leader:
            if step == ledger.charged(DP_SGD):
                ledger.charge(DP_SGD)
            coins = source.stream(f"{DP_SGD} sample", step)
            drawn = poisson_sample(coins, len(sensitive), rate=mechanism.sampling_rate)
        drawn = world.broadcast(drawn)

        # clipped gradients of the drawn images, summed
        total = {
            name: torch.zeros_like(p, dtype=torch.float64)
            for name, p in denoiser.named_parameters()
        }
        for part in drawn.split(at_once):
            mine = part[world.rows(len(part))]
            examples = noisy_examples(sensitive, mine, denoiser, config, seed=seed, step=step)
            for name, summed in clipped_sum_of(examples).items():
                total[name] += summed

        # noise once, a public divisor, an ordinary optimiser step
        world.reduce_to_leader_(list(total.values()))
        gradient = {name: torch.empty_like(p) for name, p in denoiser.named_parameters()}
        if world.is_leader:
            gradient = noisy_mean_gradient(
                total,
                source=source.stream(f"{DP_SGD} noise", step),
                clip_norm=clip_norm,
                noise_multiplier=mechanism.noise_multiplier,
                expected_batch_size=expected_batch_size,
            )
        world.broadcast_(list(gradient.values()))
        del total
        for name, parameter in denoiser.named_parameters():
            parameter.grad = gradient[name]
        optimizer.step()
        ema.update(taken)
        taken, step = taken + 1, step + 1

        # save now and then, and tell
        if checkpoint.is_due() or step == mechanism.count:
            checkpoint.save(_state(denoiser, ema, optimizer, taken=taken, charged=step))
        on_release(step, gradient)
        context.progress("finetune", step, mechanism.count)
        if log.is_due(step, mechanism.count):
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradient.values()]))
            log.write(
                step=step,
                images=round(step * expected_batch_size),
                noisy_gradient_norm=norm.item(),
            )
    check_steps_survived(taken, step)
    return Finetuned(ema, taken)


def check_ledger_is_not_behind(ledger: PrivacyLedger, charged: int) -> None:
    """RunFolderError if something rests on more charges than the ledger knows of."""
    if ledger.charged(DP_SGD) < charged:
        raise RunFolderError(
            f"the ledger knows {ledger.charged(DP_SGD)} steps of dp_sgd, but the results here rest "
            f"on {charged}: it is an older copy; restore the newest, or use a new run folder"
        )


def check_steps_survived(taken: int, charged: int) -> None:
    """RunFolderError if all paid steps were lost: the pre-trained weights are no private model."""
    if taken == 0:
        raise RunFolderError(
            f"all {charged} steps of dp_sgd are spent, but their results are no longer here; "
            "start again in a new run folder"
        )
    if taken < charged:
        logger.warning("%d of %d paid steps were lost in a crash", charged - taken, charged)


def noisy_examples(
    sensitive: ImageSet,
    indices: Tensor,
    denoiser: Denoiser,
    config: FinetuneConfig,
    *,
    seed: int,
    step: int,
) -> tuple[Tensor | None, ...]:
    """(images, labels or None, K noise levels, K noise images) of the drawn examples. PRIVATE."""
    device = next(denoiser.parameters()).device
    chosen = sensitive.images[indices.to(sensitive.images.device)]
    drawn = drawn_for_images(
        chosen, copies=config.noise_multiplicity, seed=seed, step=step, device=device
    )
    labels = None
    if denoiser.is_conditional:
        labels = sensitive.labels[indices].to(device)
        labels = torch.where(drawn.uniform < config.label_dropout, denoiser.null_label, labels)
    sigma = noise_levels(drawn.normal, largest=denoiser.largest_noise)
    return to_model_range(chosen.to(device)), labels, sigma, drawn.noise


def made_up_examples(
    denoiser: Denoiser, config: FinetuneConfig, num_images: int
) -> tuple[Tensor | None, ...]:
    """Examples of the same shapes from random pixels, for timing before any real image is read."""
    made_up = made_up_images(
        num_images,
        num_channels=denoiser.unet.config.num_channels,
        image_size=denoiser.unet.config.image_size,
        num_classes=max(1, denoiser.null_label),
    )
    indices = torch.arange(num_images)
    return noisy_examples(made_up, indices, denoiser, config, seed=0, step=0)


def _state(
    denoiser: Denoiser, ema: Ema, optimizer: torch.optim.Optimizer, *, taken: int, charged: int
) -> dict[str, Any]:
    return {
        "model": denoiser.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "taken": taken,
        "charged": charged,
    }
