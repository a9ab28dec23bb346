import itertools

import pytest
import torch

from privimage.data.image_set import ImageSet
from privimage.errors import ConfigError
from privimage.semantics.selection import (
    public_subset,
    select_at_random,
    select_by_masking,
    select_by_matching,
)


def noisy(seed=0, rows=3, columns=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("select", [select_by_masking, select_by_matching])
@pytest.mark.parametrize("seed", range(5))
def test_no_public_class_serves_two_labels(select, seed):
    chosen = select(noisy(seed), 2)
    flat = [c for classes in chosen for c in classes]
    assert [len(classes) for classes in chosen] == [2, 2, 2]
    assert len(set(flat)) == len(flat)


def test_masking_serves_labels_in_their_order():
    histogram = torch.tensor([[9.0, 8, 1, 0], [10.0, 7, 2, 3]], dtype=torch.float64)
    # label 0 takes 0 and 1; label 1 wanted 0 and 1, and gets the best of the rest
    assert select_by_masking(histogram, 2) == [[0, 1], [3, 2]]


def test_matching_has_the_largest_total_of_all_assignments():
    histogram = noisy(3, rows=2, columns=5)
    chosen = select_by_matching(histogram, 2)
    total = sum(histogram[r, c].item() for r, classes in enumerate(chosen) for c in classes)
    best = max(
        histogram[0, list(first)].sum().item() + histogram[1, list(second)].sum().item()
        for first in itertools.combinations(range(5), 2)
        for second in itertools.combinations(set(range(5)) - set(first), 2)
    )
    assert total == pytest.approx(best, rel=1e-12)


def test_matching_does_not_depend_on_the_order_of_the_labels():
    histogram = noisy(4)
    forward = select_by_matching(histogram, 2)
    backward = select_by_matching(histogram.flip(0), 2)
    assert forward == backward[::-1]


def test_random_classes_are_distinct_and_follow_the_seed():
    chosen = select_at_random(4, 12, 3, seed=1)
    assert sorted(c for classes in chosen for c in classes) == list(range(12))
    assert chosen == select_at_random(4, 12, 3, seed=1) != select_at_random(4, 12, 3, seed=2)


def test_more_labels_than_public_classes_allow_are_refused():
    with pytest.raises(ConfigError, match="needs 9 public classes"):
        select_by_masking(noisy(), 3)


def test_the_subset_holds_the_chosen_classes_under_the_labels_they_serve():
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 4).contiguous()
    public = ImageSet(images, labels, ("w", "x", "y", "z"), "test", 6)
    subset = public_subset(public, [[3], [0]], ("cat", "dog"))
    assert subset.images[:, 0, 0, 0].tolist() == [0, 3, 4]
    assert subset.labels.tolist() == [1, 0, 1]
    assert subset.class_names == ("cat", "dog")
