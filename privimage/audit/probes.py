"""Networks and image sets that make the most of what the guarantee allows an attacker.

A table has a row for each label: with a label of its own, an image has its whole clipped gradient
in one row, so that a release shows each image by itself.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from privimage.data.image_set import ImageSet, to_model_range
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.gradients.engine import Engine
from privimage.machine.processes import ALONE, World
from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import LedgerTerms, PrivacyLedger
from privimage.privacy.rng import RandomSource
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import FinetuneConfig
from privimage.training.finetune import finetune

IMAGE_SIZE = 4
ROW = IMAGE_SIZE**2  # numbers in a row of the table
CLIP_NORM = 1e-6  # below the gradient of any canary
FAR_OFF = 1e4
Released = dict[str, Tensor]
# weights that stand still, so that every step is taken at the same ones
STILL = FinetuneConfig(learning_rate=1e-30, noise_multiplicity=1, label_dropout=0.0)


class TableNetwork(UNet):
    """F(x, c_noise, labels) = the label's own row, an image.

    Rows start so far off that the gradient of any image, at any noise, is long and has one sign: it
    lies along FAR_OFF's direction. A UNet only in what `Denoiser` asks of one: its call and its
    `config`.
    """

    def __init__(self, num_labels: int) -> None:
        nn.Module.__init__(self)
        self.config = UNetConfig(
            image_size=IMAGE_SIZE,
            num_channels=1,
            num_classes=num_labels,
            channel_multipliers=(1,),
        )
        self.rows = nn.Embedding(num_labels + 1, ROW)  # the last is of the null label
        nn.init.constant_(self.rows.weight, FAR_OFF)

    # the signature of UNet's, spelled out as there: shapes are checked at both
    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        c_noise: Float[Tensor, " batch"],
        labels: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch channel height width"]:
        assert labels is not None, "a table is looked up by label"
        return self.rows(labels).view(x.shape)


class BrightnessReader(nn.Module):
    """Logits that are highest for the `classes_per_image` classes of an image's brightness."""

    brightness: Tensor

    def __init__(self, num_brightnesses: int, classes_per_image: int) -> None:
        super().__init__()
        brightness = torch.arange(num_brightnesses).repeat_interleave(classes_per_image)
        self.register_buffer("brightness", to_model_range(brightness.to(torch.uint8)))

    def forward(self, images: Tensor) -> Tensor:
        return -(self.brightness - images.mean((1, 2, 3))[:, None]).abs()


def labelled_images(labels: Tensor, *, num_labels: int, public_size: int) -> ImageSet:
    """Grey images that differ in their labels alone."""
    return ImageSet(
        images=torch.full((len(labels), 1, IMAGE_SIZE, IMAGE_SIZE), 127, dtype=torch.uint8),
        labels=labels,
        class_names=tuple(map(str, range(num_labels))),
        source="canaries",
        public_size=public_size,
    )


def released_rows(
    images: ImageSet, mechanism: Mechanism, *, source: RandomSource, seed: int, engine: Engine
) -> Float[Tensor, "step label"]:
    """How far each released gradient of a table points along its label's canary, in clip norms.

    A canary that is drawn adds 1, the noise a normal variable of deviation `noise_multiplier`.
    """
    denoiser = Denoiser(TableNetwork(images.num_classes))
    expected_batch = mechanism.sampling_rate * images.public_size
    released = observed_steps(
        denoiser, images, STILL, mechanism, source=source, seed=seed, engine=engine
    )
    rows = torch.stack([gradient["unet.rows.weight"] for gradient in released]).double()
    return rows.sum(2)[:, :-1] / ROW**0.5 * expected_batch / CLIP_NORM


def observed_steps(
    denoiser: Denoiser,
    images: ImageSet,
    config: FinetuneConfig,
    mechanism: Mechanism,
    *,
    source: RandomSource,
    seed: int,
    engine: Engine,
    world: World = ALONE,
) -> list[Released]:
    """`finetune` with a ledger that holds this very mechanism; every noisy mean gradient."""
    released: list[Released] = []
    finetune(
        denoiser,
        images,
        config,
        clip_norm=CLIP_NORM,
        ledger=ledger_of({DP_SGD: mechanism}, source),
        source=source,
        seed=seed,
        engine=engine,
        on_release=keeping(released),
        context=TrainingContext(world=world),
    )
    return released


def keeping(released: list[Released]) -> Callable[[int, Released], None]:
    """An observer of the steps that keeps what it is shown."""

    def keep(_: int, gradient: Released) -> None:
        released.append({name: value.clone() for name, value in gradient.items()})

    return keep


def ledger_of(mechanisms: dict[str, Mechanism], source: RandomSource) -> PrivacyLedger:
    """A ledger in memory that allows for these, however little noise they have."""
    terms = LedgerTerms(
        epsilon=1e12, delta=1e-5, accountant="rdp", data_id="canaries", random_source=source
    )
    ledger = PrivacyLedger.create(None, terms)
    for name, mechanism in mechanisms.items():
        ledger.reserve(name, mechanism)
    return ledger
