"""The semantic query: which public classes do the sensitive images resemble? (paper: semantic query
function)

Each sensitive image adds 1 to its k most likely public classes in the row of its own label;
Gaussian noise is added to every cell of that histogram. Adding or removing one image changes k
cells by 1, so the L2 sensitivity is sqrt(k). Private: images, labels and the un-noised counts,
which never leave this file. Public: the noisy histogram.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from privimage.data.image_set import ImageSet, to_model_range
from privimage.errors import ConfigError
from privimage.machine.processes import ALONE, World
from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.noise import add_gaussian
from privimage.privacy.rng import RandomSource

logger = logging.getLogger(__name__)
QUERY = "semantic_query"
VOTE_STEP = 2.0**-20  # of the noise; votes are whole numbers


def query_sensitivity(classes_per_image: int) -> float:
    """L2 sensitivity of the histogram under add/remove of one image: k cells change by 1."""
    return math.sqrt(classes_per_image)


def query_mechanism(noise_multiplier: float) -> Mechanism:
    """How a query is accounted: one Gaussian mechanism over the whole set, no sampling."""
    return Mechanism(noise_multiplier=noise_multiplier, sampling_rate=1.0, count=1)


@torch.inference_mode()
def count_top_classes(
    network: nn.Module,
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    *,
    num_labels: int,
    num_public_classes: int,
    classes_per_image: int,
    batch_size: int,
    device: torch.device,
) -> Float[Tensor, "label public_class"]:
    """The exact histogram. PRIVATE: the caller adds noise first of all, then discards it.

    An image gives k votes whatever its logits are; what the sensitivity needs is that they do not
    depend on the other images of the batch. So every batch has the same shape, the last one being
    filled up with black: a library chooses its kernels, and with them the order of its sums, by
    shape.
    """
    network.eval()
    counts = torch.zeros(num_labels * num_public_classes, dtype=torch.float64)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filling = batch.new_zeros(batch_size - len(batch), *batch.shape[1:])
        batch = to_model_range(torch.cat([batch, filling]).to(device))
        logits = network(batch)[: len(images) - start]
        top = logits.topk(classes_per_image, dim=1).indices.cpu()
        cells = labels[start : start + batch_size, None] * num_public_classes + top
        counts += torch.bincount(cells.flatten(), minlength=counts.numel())
    return counts.view(num_labels, num_public_classes)


def semantic_query(
    network: nn.Module,
    sensitive: ImageSet,
    *,
    num_public_classes: int,
    classes_per_image: int,
    noise_multiplier: float,
    ledger: PrivacyLedger,
    source: RandomSource,
    batch_size: int = 256,
    device: torch.device,
    keep: Callable[[Tensor], None] = lambda noisy: None,
    world: World = ALONE,
) -> Float[Tensor, "label public_class"]:
    """Release the noisy histogram, charged to the ledger before it can be used.

    `keep` gets it just before the charge, to write it to a file that is marked private: a crash
    after the charge then loses nothing, and nobody may read that file before the charge.

    Every process of `world` calls it alike and counts its part of the images; the counts meet on
    the leader, whose ledger and source are used. The others get zeros.

    Guarantee:
        One Gaussian mechanism of `noise_multiplier`, asked once, without sampling, under adding or
        removing one image. An image changes k cells of the histogram by 1, whatever the network
        says of it and of the others, so the L2 sensitivity is sqrt(k); the noise has standard
        deviation sqrt(k) times the multiplier in every cell, empty ones included (docs/method.md,
        2). The answer is charged before it is used.
    """
    check_selection_fits(sensitive.num_classes, num_public_classes, classes_per_image)
    if world.is_leader:
        ledger.reserve(QUERY, query_mechanism(noise_multiplier))
        ledger.check_charge(QUERY)
    mine = world.rows(len(sensitive))
    counts = count_top_classes(
        network,
        sensitive.images[mine],
        sensitive.labels[mine],
        num_labels=sensitive.num_classes,
        num_public_classes=num_public_classes,
        classes_per_image=classes_per_image,
        batch_size=batch_size,
        device=device,
    )
    world.barrier()
    world.reduce_to_leader_([counts])
    if not world.is_leader:
        return torch.zeros_like(counts)
    deviation = query_sensitivity(classes_per_image) * noise_multiplier
    noisy = add_gaussian(source.stream(QUERY), counts, standard_deviation=deviation, step=VOTE_STEP)
    del counts
    keep(noisy)
    ledger.charge(QUERY)  # in any case: a fresh answer is never free
    logger.info("semantic query released with noise of standard deviation %.1f", deviation)
    return noisy


def check_selection_fits(num_labels: int, num_public_classes: int, classes_per_label: int) -> None:
    """No public class serves two labels, so there must be enough of them; else ConfigError."""
    if num_labels * classes_per_label > num_public_classes:
        raise ConfigError(
            f"selection.classes_per_label is {classes_per_label} for {num_labels} labels, "
            f"which needs {num_labels * classes_per_label} public classes, but the public set has "
            f"{num_public_classes}; use at most {num_public_classes // num_labels}"
        )


def query_receipt(
    sensitive: ImageSet,
    *,
    classes_per_image: int,
    noise_multiplier: float,
    source: RandomSource,
    data_id: str,
) -> dict[str, Any]:
    """What was released and how: stored beside the answer. Holds nothing private."""
    return {
        "mechanism": "gaussian histogram",
        "noise_multiplier": noise_multiplier,
        "sensitivity_l2": query_sensitivity(classes_per_image),
        "classes_per_image": classes_per_image,
        "num_labels": sensitive.num_classes,
        "public_size": sensitive.public_size,
        "data_id": data_id,
        "noise_source": source.name,
        "insecure": source.insecure,
    }
