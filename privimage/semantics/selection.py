"""The public subset: from a noisy histogram to the public classes that each sensitive label is pre-
trained on.

All of it is post-processing of the query's noisy answer, so it costs no privacy. No public class
serves two labels: either by masking in label order, as published (docs/method.md, 2, step 3), or by
the assignment of maximum total count, in which no label comes first (k slots a label).
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from privimage.data.image_set import ImageSet
from privimage.privacy.query import check_selection_fits

Selection = list[list[int]]  # one list of public class indices a sensitive label


def select_by_masking(
    noisy: Float[Tensor, "label public_class"], classes_per_label: int
) -> Selection:
    """For each label in order, its k largest cells among the public classes that are still free."""
    check_selection_fits(noisy.shape[0], noisy.shape[1], classes_per_label)
    free = torch.ones(noisy.shape[1], dtype=torch.bool)
    selection = []
    for row in noisy:
        chosen = row.masked_fill(~free, -torch.inf).topk(classes_per_label).indices
        free[chosen] = False
        selection.append(chosen.tolist())
    return selection


def select_by_matching(
    noisy: Float[Tensor, "label public_class"], classes_per_label: int
) -> Selection:
    """The assignment of k distinct public classes to every label with the largest total noisy
    count.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    check_selection_fits(noisy.shape[0], noisy.shape[1], classes_per_label)
    slots = np.repeat(noisy.numpy(), classes_per_label, axis=0)
    rows, columns = linear_sum_assignment(slots, maximize=True)
    selection: Selection = [[] for _ in range(noisy.shape[0])]
    for row, column in zip(rows, columns, strict=True):
        selection[row // classes_per_label].append(int(column))
    return [sorted(s, key=lambda c, r=r: -float(noisy[r, c])) for r, s in enumerate(selection)]


def select_at_random(
    num_labels: int, num_public_classes: int, classes_per_label: int, *, seed: int
) -> Selection:
    """The baseline of equal size: distinct public classes drawn without looking at anything."""
    check_selection_fits(num_labels, num_public_classes, classes_per_label)
    order = np.random.default_rng([seed, 3]).permutation(num_public_classes)
    return order[: num_labels * classes_per_label].reshape(num_labels, -1).tolist()


def public_subset(public: ImageSet, selection: Selection, label_names: tuple[str, ...]) -> ImageSet:
    """The images of the chosen public classes, labelled with the sensitive label they serve
    (docs/method.md, 5).
    """
    new_label = torch.full((public.num_classes,), -1, dtype=torch.int64)
    for label, classes in enumerate(selection):
        new_label[classes] = label
    kept = (new_label[public.labels] >= 0).nonzero().flatten()
    return ImageSet(
        images=public.images[kept],
        labels=new_label[public.labels[kept]],
        class_names=label_names,
        source=f"{public.source}, {sum(map(len, selection))} of {public.num_classes} classes",
        public_size=len(kept),
    )


def unlabelled(public: ImageSet, label_names: tuple[str, ...]) -> ImageSet:
    """The whole public set with the null label, one past the sensitive labels: the baseline that
    selects nothing (docs/method.md, 5, "bad_pretrain").
    """
    return replace(
        public,
        labels=torch.full_like(public.labels, len(label_names)),
        class_names=(*label_names, "no label"),
    )
