"""Sensible settings for images that nobody has tuned for, from public facts about the sets.

Everything follows from image size, number of labels, number of public classes and the *public* size
of the sensitive set, never from the images. The ratios are the paper's where a set is large enough.
"""

import math
from typing import Any

IMAGES_PER_NOISE = 60  # of a label, for each unit of the noise multiplier of the moments


def default_settings(
    *,
    image_size: int,
    num_labels: int,
    num_public_classes: int,
    public_size: int,
    epsilon: float,
) -> dict[str, Any]:
    """A mapping for `load_config`, but for its section `data`; every value may be overridden."""
    classes_per_label = default_classes_per_label(num_labels, num_public_classes)
    sampling_rate, num_steps = default_sampling(public_size)
    delta = default_delta(public_size)
    large = image_size >= 28
    moments = default_moments(public_size, num_labels, image_size, epsilon=epsilon, delta=delta)
    return {
        "name": "synthesize",
        "privacy": {
            "epsilon": epsilon,
            "delta": delta,
            "query_noise_multiplier": max(
                default_query_multiplier(public_size, num_labels, classes_per_label),
                least_query_multiplier(epsilon, delta),
            ),
            "sampling_rate": sampling_rate,
            "num_steps": num_steps,
            "clip_norm": 0.001,
        },
        "query_network": {
            "widths": [32, 64, 128] if large else [32, 64],
            "blocks": [1, 1, 1] if large else [1, 1],
            "block": "basic",
            "epochs": 8,
            "batch_size": 128,
            "learning_rate": 0.1,
            "horizontal_flip": False,
            "augment_shift": 1,
        },
        "selection": {"classes_per_label": classes_per_label, "assignment": "matching"},
        **({"moments": moments} if moments else {}),
        "network": {
            "base_channels": 32 if large else 16,
            "channel_multipliers": [1, 2, 2] if large else [1, 2],
            "attention_resolutions": [image_size // 2],
            "blocks_per_level": 2 if large else 1,
        },
        "pretrain": {
            "num_images": 1_000_000 if large else 100_000,
            "batch_size": 128,
            "learning_rate": 1e-3 if large else 3e-3,
            "ema_rate": 0.999 if large else 0.995,
            "horizontal_flip": False,
        },
        "finetune": {
            "learning_rate": 1e-3 if large else 2e-3,
            "noise_multiplicity": 8 if large else 4,
            "ema_rate": 0.9,  # there are few steps, and each is noisy
            "start_from": "ema",
        },
        "sampling": {
            "num_images": max(num_labels, min(public_size, 50_000)),
            "sampler": "dpm_solver",  # as good in 12 calls as DDIM in 50 (docs/speed.md)
            "num_steps": 12,
        },
        "evaluation": {"horizontal_flip": False},
    }


def default_delta(public_size: int) -> float:
    """A power of ten, at most a tenth of 1/N."""
    return 10.0 ** -(math.ceil(math.log10(public_size)) + 1)


def default_classes_per_label(num_labels: int, num_public_classes: int) -> int:
    """The paper keeps 5 of 1000 classes a label, and 10 where there is one label only."""
    wanted = 10 if num_labels == 1 else 5
    return max(1, min(wanted, num_public_classes // (2 * num_labels)))


def default_query_multiplier(public_size: int, num_labels: int, classes_per_label: int) -> float:
    """Noise of about 5 % of the images of a label in every cell; never under 4, never over 50."""
    per_label = public_size / num_labels
    return round(min(50.0, max(4.0, 0.05 * per_label / classes_per_label**0.5)), 2)


def least_query_multiplier(epsilon: float, delta: float) -> float:
    """With it the query alone takes at most a third of epsilon, so that DP-SGD has the rest.

    From Gaussian RDP, epsilon = 1/(2 s^2) + sqrt(2 log(1/delta))/s (Mironov 2017, Proposition 3 and
    Table II), solved for the multiplier s. 0 for what is no epsilon: the settings' check says so.
    """
    if not 0 < epsilon < math.inf:
        return 0.0
    share, tail = epsilon / 3, math.sqrt(2 * math.log(1 / delta))
    least = (tail + math.sqrt(tail**2 + 2 * share)) / (2 * share)
    return math.ceil(100 * least) / 100


def default_moments(
    public_size: int, num_labels: int, image_size: int, *, epsilon: float, delta: float
) -> dict[str, float] | None:
    """What is asked of the moments of each label: with noise that takes less than a third of
    epsilon, and only where a label has so many images that its mean stands out of that noise.

    With 64 whitened coordinates the noise of a label's mean is 16 m/n, for n images and multiplier
    m. Means of labels were .13 apart on groups of CIFAR-100's classes: below n = 60 m the noise is
    twice that.
    """
    multiplier = round(1.25 * least_query_multiplier(epsilon, delta), 2)
    if not 0 < multiplier * IMAGES_PER_NOISE <= public_size / num_labels:
        return None
    return {"noise_multiplier": multiplier, "num_components": min(64, image_size**2 // 4)}


def default_sampling(public_size: int) -> tuple[float, int]:
    """(sampling rate, steps): a fifth of a small set, about 4,096 images of a large one."""
    rate = min(0.2, 4096 / public_size)
    return round(rate, 6), max(60, round(12 / rate))
