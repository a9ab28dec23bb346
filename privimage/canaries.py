"""Attacks on the method's own code with canaries of the auditor's: what `privacy.audit` judges.

Each attack runs `finetune` or `semantic_query` as a run does, with a ledger and noise calibrated to
the plan, on images that are in or out by fair coins; it then guesses the coins from what was
released. Networks and canaries are the worst case that the guarantee covers. The images are made
up or bundled: nothing is private, and nothing of a real run is charged.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from privimage.config import FinetuneConfig, PrivacyConfig
from privimage.data.image_set import ImageSet, to_model_range
from privimage.data.preparation import Preparation
from privimage.data.sources import load_digits
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss, sample_noise_levels
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.errors import ConfigError
from privimage.privacy.accounting import Mechanism, calibrate_noise_multiplier
from privimage.privacy.audit import AuditResult, judge_guesses
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.per_example import Engine
from privimage.privacy.rng import RandomSource
from privimage.semantics.query import semantic_query
from privimage.training.finetune import DP_SGD, finetune

IMAGE_SIZE = 4
# weights that stand still, so that a canary's gradient has one known direction in every step
TABLE_CONFIG = FinetuneConfig(learning_rate=1e-9, noise_multiplicity=16, label_dropout=0.0)
BASE_IMAGES, EMPTY_LABELS = 4, 20  # of the attack on the size of the set
QUERY_LABELS, BRIGHTNESSES = 10, 256
# what makes a small network remember single images, unless noise keeps it from that
DIGIT_CONFIG = FinetuneConfig(learning_rate=5e-3, noise_multiplicity=4, label_dropout=0.0)
REAL_DIGITS = 20  # among the canaries
LOSS_DRAWS = 64  # noisy copies that a canary's loss is averaged over


def audit_gradients(
    plan: PrivacyConfig, *, num_canaries: int, source: RandomSource, seed: int, engine: Engine
) -> AuditResult:
    """DP-SGD against somebody who sees every released gradient, or all weights, which is the same.

    The network is a table with a row for each label, and each canary has a label of its own, so
    that its whole clipped gradient lies in one row. Known are plan, canaries and which row is
    whose; not the noise, the samples and the coins. Two scores: the row against the canary's
    direction, summed over the steps; and its largest change from a step to the next, which shows
    noise that returns.
    """
    if plan.num_steps < 2:
        raise ConfigError(f"num_steps is {plan.num_steps}; give at least 2, to compare releases")
    is_in = _coins(num_canaries, seed)
    canaries = _white_images(
        torch.from_numpy(is_in).nonzero().squeeze(1),
        num_labels=num_canaries,
        public_size=max(1, num_canaries // 2),
    )
    rows, epsilon = _released_rows(canaries, plan, source=source, seed=seed, engine=engine)
    # the loss falls as a row becomes brighter: the gradient points the other way
    alignment = -rows.sum((0, 2))[:num_canaries]
    change = rows.diff(dim=0).norm(dim=2).amax(0)[:num_canaries]
    return judge_guesses(
        [alignment.numpy(), change.numpy()], is_in, claimed_epsilon=epsilon, delta=plan.delta
    )


def audit_set_size(
    plan: PrivacyConfig,
    *,
    num_runs: int,
    publish_size: bool,
    source: RandomSource,
    seed: int,
    engine: Engine,
) -> AuditResult:
    """DP-SGD against somebody who measures the scale of its noise, over many tiny runs.

    Each run has BASE_IMAGES images and, by a fair coin, one more; rows of labels that no image has
    show noise alone. If noise or divisor depended on how many images there are, or were drawn, its
    scale would tell. One coin a run, and independent runs: together they are as private as one.
    The score is the mean log scale over the steps, read in both directions. With `publish_size` the
    size is given out, which no guarantee survives: the attack must see that, or it is blind.
    """
    if source.insecure:
        raise ConfigError("a seeded source repeats its draws in every run; give secure_source()")
    is_in = _coins(num_runs, seed)
    scales, epsilon = np.empty(num_runs), 0.0
    for run in range(num_runs):
        size = BASE_IMAGES + int(is_in[run])
        images = _white_images(
            torch.arange(size),
            num_labels=BASE_IMAGES + 1 + EMPTY_LABELS,
            public_size=size if publish_size else BASE_IMAGES,
        )
        rows, epsilon = _released_rows(images, plan, source=source, seed=run, engine=engine)
        only_noise = rows[:, BASE_IMAGES + 1 :].flatten(1)
        scales[run] = only_noise.std(dim=1).log().mean().item()
    return judge_guesses([scales, -scales], is_in, claimed_epsilon=epsilon, delta=plan.delta)


def audit_query(
    plan: PrivacyConfig,
    *,
    num_canaries: int,
    classes_per_image: int,
    source: RandomSource,
    seed: int,
) -> AuditResult:
    """The semantic query against somebody who sees the noisy histogram, as everybody may.

    The network reads an image's public classes from its brightness, and no two canaries share a
    cell; known is all but noise and coins. The score is the sum of a canary's noisy counts.
    """
    per_label = -(-num_canaries // QUERY_LABELS)
    if per_label > BRIGHTNESSES:
        raise ConfigError(
            f"num_canaries is {num_canaries}; at most {QUERY_LABELS * BRIGHTNESSES} differ in "
            "label or brightness"
        )
    is_in = _coins(num_canaries, seed)
    brightness, labels = np.divmod(np.flatnonzero(is_in), QUERY_LABELS)
    canaries = ImageSet(
        images=torch.from_numpy(brightness).to(torch.uint8).view(-1, 1, 1, 1),
        labels=torch.from_numpy(labels),
        class_names=tuple(map(str, range(QUERY_LABELS))),
        source="canaries",
        public_size=max(1, num_canaries // 2),
    )
    ledger = _ledger(plan, source)
    noisy = semantic_query(
        _BrightnessReader(per_label, classes_per_image),
        canaries,
        num_public_classes=per_label * classes_per_image,
        classes_per_image=classes_per_image,
        noise_multiplier=plan.query_noise_multiplier,
        ledger=ledger,
        source=source,
        device=torch.device("cpu"),
    )
    votes = noisy.view(QUERY_LABELS, per_label, classes_per_image).sum(2)
    score = votes.T.flatten()[:num_canaries].numpy()  # canary = brightness * QUERY_LABELS + label
    epsilon = ledger.epsilon(plan.accountant)
    return judge_guesses([score], is_in, claimed_epsilon=epsilon, delta=plan.delta)


def audit_inputs(
    plan: PrivacyConfig, *, num_canaries: int, source: RandomSource, seed: int, engine: Engine
) -> AuditResult:
    """The finished model against somebody who gets nothing else, and has the canaries.

    A small U-Net is fine-tuned on handwritten digits, with images of random pixels among them. The
    score is how much a canary's denoising loss fell. This is the usual attack on a published
    model, weaker by far than what the guarantee allows for: expect a bound near 0.
    """
    is_in = _coins(num_canaries, seed)
    digits = load_digits("train", preparation=Preparation(2 * IMAGE_SIZE, "grey"))
    digits = digits.take(torch.arange(REAL_DIGITS))
    drawn = np.random.default_rng([seed, 1])
    shape = (num_canaries, *digits.images.shape[1:])
    pixels = torch.from_numpy(drawn.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255))
    labels = torch.from_numpy(drawn.integers(0, digits.num_classes, num_canaries))
    mixed = ImageSet(
        images=torch.cat([digits.images, pixels[is_in]]),
        labels=torch.cat([digits.labels, labels[is_in]]),
        class_names=digits.class_names,
        source="digits and canaries",
        public_size=len(digits) + num_canaries // 2,
    )
    denoiser = _small_denoiser(digits.num_classes, seed=seed)
    before = _losses(denoiser, pixels, labels, seed=seed)
    epsilon = _fine_tune(
        denoiser, mixed, DIGIT_CONFIG, plan, source=source, seed=seed, engine=engine
    )
    fall = before - _losses(denoiser, pixels, labels, seed=seed)
    return judge_guesses([fall.numpy()], is_in, claimed_epsilon=epsilon, delta=plan.delta)


class TableNetwork(UNet):
    """F(x, c_noise, labels) = the label's own row, an image; every row starts at 0.

    A UNet only in what `Denoiser` asks of one: its call and its `config`.
    """

    def __init__(self, num_labels: int) -> None:
        nn.Module.__init__(self)
        self.config = UNetConfig(
            image_size=IMAGE_SIZE,
            num_channels=1,
            num_classes=num_labels,
            channel_multipliers=(1,),
        )
        self.rows = nn.Embedding(num_labels + 1, IMAGE_SIZE**2)  # the last is of the null label
        nn.init.zeros_(self.rows.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        c_noise: Float[Tensor, " batch"],
        labels: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch channel height width"]:
        assert labels is not None, "a table is looked up by label"
        return self.rows(labels).view(x.shape)


class _BrightnessReader(nn.Module):
    """Logits that are highest for the `classes_per_image` classes of an image's brightness."""

    brightness: Tensor

    def __init__(self, num_brightnesses: int, classes_per_image: int) -> None:
        super().__init__()
        brightness = torch.arange(num_brightnesses).repeat_interleave(classes_per_image)
        self.register_buffer("brightness", to_model_range(brightness.to(torch.uint8)))

    def forward(self, images: Tensor) -> Tensor:
        return -(self.brightness - images.mean((1, 2, 3))[:, None]).abs()


def _coins(num: int, seed: int) -> Bool[np.ndarray, " num"]:
    """The auditor's own: independent of the noise, and nobody's secret but the attack's."""
    if num < 2:
        raise ConfigError(f"{num} canaries or runs; give at least 2, and hundreds to see anything")
    return np.random.default_rng(seed).random(num) < 0.5


def _white_images(labels: Tensor, *, num_labels: int, public_size: int) -> ImageSet:
    return ImageSet(
        images=torch.full((len(labels), 1, IMAGE_SIZE, IMAGE_SIZE), 255, dtype=torch.uint8),
        labels=labels,
        class_names=tuple(map(str, range(num_labels))),
        source="canaries",
        public_size=public_size,
    )


def _released_rows(
    images: ImageSet, plan: PrivacyConfig, *, source: RandomSource, seed: int, engine: Engine
) -> tuple[Float[Tensor, "step label pixel"], float]:
    """The noisy gradients of a table's rows in every step, and the epsilon charged for them."""
    denoiser = Denoiser(TableNetwork(images.num_classes))
    released: list[Tensor] = []
    epsilon = _fine_tune(
        denoiser,
        images,
        TABLE_CONFIG,
        plan,
        source=source,
        seed=seed,
        engine=engine,
        on_release=lambda step, gradient: released.append(gradient["unet.rows.weight"]),
    )
    return torch.stack(released), epsilon


def _fine_tune(
    denoiser: Denoiser,
    images: ImageSet,
    config: FinetuneConfig,
    plan: PrivacyConfig,
    *,
    source: RandomSource,
    seed: int,
    engine: Engine,
    on_release: Callable[[int, dict[str, Tensor]], None] = lambda step, gradient: None,
) -> float:
    """`finetune` with the noise that the plan's epsilon asks for; returns the epsilon charged."""
    multiplier = calibrate_noise_multiplier(
        (),
        sampling_rate=plan.sampling_rate,
        count=plan.num_steps,
        epsilon=plan.epsilon,
        delta=plan.delta,
        accountant=plan.accountant,
    )
    ledger = _ledger(plan, source)
    ledger.reserve(DP_SGD, Mechanism(multiplier, plan.sampling_rate, plan.num_steps))
    finetune(
        denoiser,
        images,
        config,
        plan,
        ledger=ledger,
        source=source,
        seed=seed,
        engine=engine,
        on_release=on_release,
    )
    return ledger.epsilon(plan.accountant)


def _ledger(plan: PrivacyConfig, source: RandomSource) -> PrivacyLedger:
    return PrivacyLedger.create(
        None,
        epsilon=plan.epsilon,
        delta=plan.delta,
        accountant=plan.accountant,
        data_id="canaries",
        random_source=source,
    )


def _small_denoiser(num_classes: int, *, seed: int) -> Denoiser:
    config = UNetConfig(
        image_size=2 * IMAGE_SIZE,
        num_channels=1,
        num_classes=num_classes,
        base_channels=16,
        channel_multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Denoiser(UNet(config))


@torch.no_grad()
def _losses(
    denoiser: Denoiser, pixels: Tensor, labels: Tensor, *, seed: int
) -> Float[Tensor, " canary"]:
    """Each canary's denoising loss over LOSS_DRAWS noisy copies, the same ones in every call."""
    denoiser.eval()
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for images, their_labels in zip(pixels.split(64), labels.split(64), strict=True):
        shape = (len(images), LOSS_DRAWS)
        sigma = sample_noise_levels(len(images) * LOSS_DRAWS, generator=generator).view(shape)
        noise = torch.randn((*shape, *images.shape[1:]), generator=generator)
        losses.append(denoising_loss(denoiser, to_model_range(images), their_labels, sigma, noise))
    return torch.cat(losses)
