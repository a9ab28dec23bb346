"""What a given time is spent on (docs/speed.md, "A given time").

From public facts and from paces that were measured on made-up images, never from private ones: what
is chosen here may be published. The halves rest on curves of digits (bench/compute_rule.py), the
rest on settings that were tried by hand.
"""

import math
from dataclasses import dataclass
from typing import Any

from privimage.errors import ConfigError

# The shares of the time: at most so much to the query network and to synthetic images ...
QUERY_NETWORK, SYNTHETIC_IMAGES = 0.15, 0.15
RESERVE = 0.05  # ... and to what nobody foresees
PRETRAINING = 0.5  # of what is left then; DP-SGD has the rest
FEWEST_EPOCHS, MOST_EPOCHS = 1, 8  # of the query network
# DP-SGD: the noise of a step falls with its batch, and so the batch is enlarged before the count
NUM_STEPS, MOST_STEPS, MOST_OF_THE_SET = 60, 240, 0.2
FEWEST_IN_A_STEP = 16
MOST_SHOWN = 4_000_000  # images of pre-training
FEWEST_SHOWN = 2_000
# networks from the largest to the smallest, with the settings that go with their size; the first
# that is shown enough images is taken
_LARGE: dict[str, Any] = {
    "network.base_channels": 32,
    "network.channel_multipliers": [1, 2, 2],
    "network.blocks_per_level": 2,
    "pretrain.learning_rate": 1e-3,
    "pretrain.ema_rate": 0.999,
    "finetune.learning_rate": 1e-3,
    "finetune.noise_multiplicity": 8,
    "evaluation.cnn_width": 64,
    "evaluation.cnn_epochs": 50,
}
_SMALL = _LARGE | {
    "network.base_channels": 16,
    "network.blocks_per_level": 1,
    "pretrain.learning_rate": 3e-3,
    "pretrain.ema_rate": 0.995,
    "finetune.learning_rate": 2e-3,
    "finetune.noise_multiplicity": 4,
    "evaluation.cnn_width": 32,
    "evaluation.cnn_epochs": 20,
}
NETWORKS = (_LARGE, _SMALL, _SMALL | {"network.channel_multipliers": [1, 2]})
IMAGES_PER_PARAMETER = 1 / 3  # as in the settings that were tried by hand


@dataclass(frozen=True, kw_only=True)
class Paces:
    """Seconds on this machine with one network: what is there anyway, and one more of each. 0 where
    the number is not to be chosen: it counts among what is there anyway.
    """

    anyway: float
    epoch: float  # of the query network
    shown_image: float  # of pre-training
    clipped_image: float  # of DP-SGD, with all its noise copies
    synthetic_image: float  # drawn, and evaluated where there are real test images


def allotted(
    seconds: float, paces: Paces, *, public_size: int, num_labels: int
) -> dict[str, int | float]:
    """Counts by the names of their settings, so that the whole takes about `seconds`, or less
    where more would gain nothing; ConfigError if that is too short.
    """
    left = (1 - RESERVE) * seconds - paces.anyway
    epochs = _count(QUERY_NETWORK * left, paces.epoch, FEWEST_EPOCHS, MOST_EPOCHS)
    left -= epochs * paces.epoch
    most = max(num_labels, min(public_size, 50_000))
    drawn = _count(SYNTHETIC_IMAGES * left, paces.synthetic_image, num_labels, most)
    left -= drawn * paces.synthetic_image
    share = PRETRAINING if paces.clipped_image else 1.0
    shown = _count(share * left, paces.shown_image, 0, MOST_SHOWN)
    left -= shown * paces.shown_image
    most = round(MOST_STEPS * MOST_OF_THE_SET * public_size)
    steps, in_a_step = steps_of(_count(left, paces.clipped_image, 0, most), public_size)
    if shown < FEWEST_SHOWN or in_a_step < min(FEWEST_IN_A_STEP, MOST_OF_THE_SET * public_size):
        raise ConfigError(
            f"{seconds / 3600:.2g} hours are too short for these images on this machine; give "
            f"{least_hours(paces, public_size=public_size, num_labels=num_labels):.1g} or more, or "
            "smaller images (image_size)"
        )
    return {
        "query_network.epochs": epochs,
        "pretrain.num_images": shown,
        "privacy.num_steps": steps,
        "privacy.sampling_rate": round(in_a_step / public_size, 6),
        "sampling.num_images": drawn,
    }


def steps_of(clipped: int, public_size: int) -> tuple[int, float]:
    """(steps, images expected in each) for so many clipped gradients: larger batches before more
    steps, until a batch is a fifth of the set.
    """
    in_a_step = min(clipped / NUM_STEPS, MOST_OF_THE_SET * public_size)
    return max(1, min(MOST_STEPS, round(clipped / max(in_a_step, 1e-9)))), in_a_step


def least_hours(paces: Paces, *, public_size: int, num_labels: int) -> float:
    """The shortest time that `allotted` takes, rounded up to one digit."""
    clipped = NUM_STEPS * min(FEWEST_IN_A_STEP, MOST_OF_THE_SET * public_size)
    shown = FEWEST_SHOWN * paces.shown_image
    trainings = max(shown / PRETRAINING, clipped * paces.clipped_image / (1 - PRETRAINING))
    fewest = FEWEST_EPOCHS * paces.epoch + num_labels * paces.synthetic_image
    shares = (1 - QUERY_NETWORK) * (1 - SYNTHETIC_IMAGES)
    seconds = paces.anyway + max(fewest + trainings, trainings / shares + fewest)
    hours = seconds / (1 - RESERVE) / 3600
    digit = 10.0 ** math.floor(math.log10(hours))
    return math.ceil(hours / digit) * digit


def _count(seconds: float, pace: float, least: int, most: int) -> int:
    """How many fit, within the bounds; as many as may be where they cost nothing."""
    return max(least, min(most, int(seconds / pace) if pace else most))
