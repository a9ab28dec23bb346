"""The settings of every cell of the paper's main table: three image sets, three epsilons each.

`PRESETS` has one row a cell, `RECIPES` what follows from the image set, `preset_settings` all that
the cells share (docs/method.md, 1 to 9). The query's noise is the published one: it costs little
budget but drowns most choices on CIFAR-10, where docs/deviations.md advises a multiplier of 50.
Nothing here is private.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from privimage.errors import ConfigError

NUM_IMAGENET_CLASSES = 1000  # of the public set in every cell


@dataclass(frozen=True)
class Preset:
    """A cell: the published noise multiplier is what the run's own calibration is held against.

    The published search stops anywhere within .01 below epsilon; ours within .0001.
    """

    recipe: str
    epsilon: float
    published_sgd_noise_multiplier: float


@dataclass(frozen=True)
class Recipe:
    """What a set of sensitive images fixes. `sampling_rate` is 1/ceil(N/B) for the published B."""

    public: str
    image_size: int
    num_labels: int
    public_size: int
    delta: float
    query_noise_multiplier: float
    classes_per_label: int
    sampling_rate: float
    num_steps: int
    channel_multipliers: tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    pretrain_num_images: int  # epochs times the images of the public classes: about 1,300 each


# fmt: off
PRESETS = {
    #                         recipe     epsilon  published SGD noise multiplier (docs/method.md, 6)
    "cifar10_eps10":   Preset("cifar10",   10.0,   2.32421875),
    "cifar10_eps5":    Preset("cifar10",    5.0,   4.0380859375),
    "cifar10_eps1":    Preset("cifar10",    1.0,  16.71875),
    "celeba32_eps10":  Preset("celeba32",  10.0,   1.5673828125),
    "celeba32_eps5":   Preset("celeba32",   5.0,   2.626953125),
    "celeba32_eps1":   Preset("celeba32",   1.0,  10.859375),
    "celeba64_eps10":  Preset("celeba64",  10.0,   1.16455078125),
    "celeba64_eps5":   Preset("celeba64",   5.0,   1.8408203125),
    "celeba64_eps1":   Preset("celeba64",   1.0,   7.265625),
}
RECIPES = {
    #                  public       px  labels   N     delta   query   k   rate   steps
    #                  multipliers   attention  pre-training images
    "cifar10":  Recipe("imagenet32", 32, 10,  50_000, 1e-5,  484.0,  5, 1 / 3,   150,
                       (1, 2, 2),    (16,),  260_000_000),  # 4,000 epochs of 65,000 images
    "celeba32": Recipe("imagenet32", 32,  1, 162_770, 1e-6, 5300.0, 10, 1 / 9,   450,
                       (1, 2, 2),    (8, 16), 78_000_000),  # 6,000 epochs of 13,000 images
    "celeba64": Recipe("imagenet64", 64,  1, 162_770, 1e-6, 5300.0, 10, 1 / 20, 1000,
                       (1, 1, 2, 2), (8, 16), 78_000_000),
}
# fmt: on


def preset_settings(name: str) -> dict[str, Any]:
    """A full mapping for `load_config`; ConfigError offers the nearest name."""
    preset = find_preset(name)
    recipe = RECIPES[preset.recipe]
    return {
        "name": name,
        "data": {
            "sensitive": preset.recipe,
            "public": recipe.public,
            "image_size": recipe.image_size,
            "color": "rgb",
            "conditional": recipe.num_labels > 1,
            "evaluate_on": preset.recipe,
            "public_size": recipe.public_size,
        },
        "privacy": {
            "epsilon": preset.epsilon,
            "delta": recipe.delta,
            "query_noise_multiplier": recipe.query_noise_multiplier,
            "sampling_rate": recipe.sampling_rate,
            "num_steps": recipe.num_steps,
            "clip_norm": 0.001,
            "accountant": "rdp",
        },
        "selection": {
            "classes_per_label": recipe.classes_per_label,
            "strategy": "semantic",
            "assignment": "masking",
        },
        "network": {
            "base_channels": 32,
            "channel_multipliers": list(recipe.channel_multipliers),
            "attention_resolutions": list(recipe.attention_resolutions),
            "blocks_per_level": 2,
            "dropout": 0.0,
        },
        **training_settings(recipe.pretrain_num_images),
        **evaluation_settings(),
    }


def find_preset(name: str) -> Preset:
    """The row of the table; ConfigError offers the nearest name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no preset {name!r}; {guess}choose {', '.join(PRESETS)}")
    return PRESETS[name]


def training_settings(pretrain_num_images: int) -> dict[str, Any]:
    """The three trainings (docs/method.md, 1, 5, 6): a ResNet-50, the public subset, DP-SGD."""
    return {
        "query_network": {
            "widths": [64, 128, 256, 512],
            "blocks": [3, 4, 6, 3],
            "block": "bottleneck",
            "epochs": 60,
            "batch_size": 8192,
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "horizontal_flip": True,
            "augment_shift": 0,
        },
        "pretrain": {
            "num_images": pretrain_num_images,
            "batch_size": 2048,
            "learning_rate": 1e-4,
            "ema_rate": 0.999,
            "label_dropout": 0.1,
            "horizontal_flip": True,
        },
        "finetune": {
            "learning_rate": 3e-4,
            "noise_multiplicity": 8,
            "ema_rate": 0.999,
            "label_dropout": 0.1,
            "start_from": "raw",
        },
    }


def evaluation_settings() -> dict[str, Any]:
    """Images to draw, and what is measured on them (docs/method.md, 7 to 9)."""
    return {
        "sampling": {"num_images": 50_000, "sampler": "ddim", "num_steps": 50, "batch_size": 500},
        "evaluation": {
            "cnn_width": 64,
            "cnn_epochs": 50,
            "cnn_batch_size": 512,
            "horizontal_flip": True,
            "frechet_num_images": 5000,
        },
    }
