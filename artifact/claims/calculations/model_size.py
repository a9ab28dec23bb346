"""How large the paper's networks are, and how much public data they see.

Counts the parameters of every network of the published ladders, built without memory for their
weights, and the public classes of every recipe (docs/method.md, 3 and 10). The abstract's 7.6 % of
the parameters has no stated denominator, so it is computed for each that was proposed. Nothing is
trained or read.
"""

from pathlib import Path

import torch

from privimage.diffusion.unet import UNet, UNetConfig
from privimage.settings.presets import NUM_IMAGENET_CLASSES, RECIPES

# fmt: off
LADDERS = {  # s is the network of the main table
    #                recipe   base  multipliers per level
    "cifar10_s":    ("cifar10",   32, (1, 2, 2)),
    "cifar10_m":    ("cifar10",   32, (1, 2, 4)),
    "cifar10_b":    ("cifar10",   32, (1, 4, 4)),
    "cifar10_bm":   ("cifar10",   96, (1, 2, 2)),
    "cifar10_bb":   ("cifar10",  128, (1, 2, 2)),
    "cifar10_bbbb": ("cifar10",  192, (1, 2, 2, 2)),
    "celeba32_s":   ("celeba32",  32, (1, 2, 2)),
    "celeba32_m":   ("celeba32",  32, (1, 2, 4)),
    "celeba32_b":   ("celeba32",  32, (1, 4, 4)),
    "celeba32_bm":  ("celeba32",  96, (1, 2, 2)),
    "celeba32_bb":  ("celeba32", 128, (1, 2, 2)),
    "celeba64_s":   ("celeba64",  32, (1, 1, 2, 2)),
    "celeba64_m":   ("celeba64",  32, (1, 1, 2, 4)),
    "celeba64_b":   ("celeba64",  32, (1, 1, 4, 4)),
    "celeba64_bm":  ("celeba64",  96, (1, 1, 2, 2)),
    "celeba64_bb":  ("celeba64", 128, (1, 1, 2, 2)),
}
# fmt: on
ABSTRACT_PERCENT = 7.6
# Candidates in millions: neither is stated by the paper's abstract or its public scripts.
LARGE, SMALLER = 80.4, 23.0


def size_metrics(_: Path, __: int = 0) -> dict[str, dict[str, float]]:
    """Parameters of every rung, public classes of every recipe, and readings of the abstract."""
    sizes = {name: num_parameters(*rung) for name, rung in LADDERS.items()}
    arms: dict[str, dict[str, float]] = {
        name: {"num_parameters": size} for name, size in sizes.items()
    }
    for name in RECIPES:
        arms[f"{name}_s"] |= public_classes(name)
    return arms | {"abstract": readings(small=sizes["cifar10_s"], medium=sizes["cifar10_b"])}


def num_parameters(recipe: str, base_channels: int, multipliers: tuple[int, ...]) -> int:
    """Parameters of one network; on the meta device its weights take neither memory nor time."""
    fixed = RECIPES[recipe]
    with torch.device("meta"):
        unet = UNet(
            UNetConfig(
                image_size=fixed.image_size,
                num_channels=3,
                num_classes=fixed.num_labels if fixed.num_labels > 1 else 0,
                base_channels=base_channels,
                channel_multipliers=multipliers,
                attention_resolutions=fixed.attention_resolutions,
            )
        )
    return sum(parameter.numel() for parameter in unet.parameters())


def public_classes(recipe: str) -> dict[str, float]:
    """How many public classes the query keeps, and their share of ImageNet's 1,000."""
    kept = RECIPES[recipe].num_labels * RECIPES[recipe].classes_per_label
    return {"public_classes": kept, "public_percent": 100 * kept / NUM_IMAGENET_CLASSES}


def readings(*, small: int, medium: int) -> dict[str, float]:
    """The abstract's share of the parameters, by numerator and denominator; the nearest one too."""
    percent = {
        "parameters_s_of_80_4_million_percent": 100 * small / (LARGE * 1e6),
        "parameters_s_of_23_million_percent": 100 * small / (SMALLER * 1e6),
        "parameters_b_of_80_4_million_percent": 100 * medium / (LARGE * 1e6),
    }
    nearest = min(percent.values(), key=lambda value: abs(value - ABSTRACT_PERCENT))
    return {**percent, "parameters_nearest_reading_percent": nearest}
