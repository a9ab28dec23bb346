import itertools
import math

import pytest
import torch
from torch import nn

from privimage.classifiers.query_network import QueryNetwork
from privimage.data.image_set import ImageSet
from privimage.errors import BudgetError, ConfigError
from privimage.machine.hardware import autocast
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.query import (
    QUERY,
    count_top_classes,
    query_receipt,
    query_sensitivity,
    semantic_query,
)
from privimage.privacy.rng import insecure_source, secure_source
from tests.ledgers import ledger_terms

CPU = torch.device("cpu")
NUM_PUBLIC, NUM_LABELS, K = 7, 2, 3


class PixelNetwork(nn.Module):
    """Logits are the first pixels, so that a test can say which classes an image votes for."""

    def forward(self, x):
        return x.flatten(1)[:, :NUM_PUBLIC]


def image_set(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(num) % NUM_LABELS
    return ImageSet(images, labels, ("a", "b"), "test", num)


def counts_of(images, labels, *, network=None):
    return count_top_classes(
        network or PixelNetwork(),
        images,
        labels,
        num_labels=NUM_LABELS,
        num_public_classes=NUM_PUBLIC,
        classes_per_image=K,
        batch_size=2,
        device=CPU,
    )


def ledger(epsilon=50.0):
    source = insecure_source(0, insecure_for_reproduction=True)
    return PrivacyLedger.create(None, ledger_terms(epsilon=epsilon, random_source=source))


def ask(images, book, *, multiplier=2.0, seed=0, k=K, source=None):
    return semantic_query(
        PixelNetwork(),
        images,
        num_public_classes=NUM_PUBLIC,
        classes_per_image=k,
        noise_multiplier=multiplier,
        ledger=book,
        source=source or insecure_source(seed, insecure_for_reproduction=True),
        device=CPU,
    )


def test_removing_any_image_moves_the_histogram_by_sqrt_k_exactly():
    everyone = image_set(6)
    full = counts_of(everyone.images, everyone.labels)
    for left_out in range(6):
        keep = torch.tensor([i for i in range(6) if i != left_out])
        rest = counts_of(everyone.images[keep], everyone.labels[keep])
        distance = torch.linalg.vector_norm(full - rest).item()
        assert distance == pytest.approx(math.sqrt(K), rel=1e-12)
        assert distance == pytest.approx(query_sensitivity(K), rel=1e-12)


def test_every_batch_has_the_same_shape_however_many_images_there_are():
    shapes = set()

    class Spy(PixelNetwork):
        def forward(self, x):
            shapes.add(tuple(x.shape))
            return super().forward(x)

    for num in (1, 2, 5):
        images = image_set(num)
        counts_of(images.images, images.labels, network=Spy())
    assert shapes == {(2, 1, 4, 4)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_logits_are_the_same_bits_at_any_place_of_a_batch_and_beside_any_images(precision, block):
    # what the sensitivity rests on: a vote that another image could turn would count twice
    torch.manual_seed(0)
    network = QueryNetwork(100, num_channels=3, widths=(16, 32), blocks=(1, 1), block=block).eval()
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    others_black = torch.where(torch.arange(64)[:, None, None, None] < 5, images, 0.0)
    with torch.inference_mode(), autocast(CPU, precision):
        logits = network(images)
        assert torch.equal(network(images.roll(1, 0)).roll(-1, 0), logits)
        assert torch.equal(network(others_black)[:5], logits[:5])


def test_every_image_votes_once_for_its_k_largest_logits_in_its_own_row():
    images = image_set(5)
    expected = torch.zeros(NUM_LABELS, NUM_PUBLIC, dtype=torch.float64)
    for pixels, label in zip(images.images.flatten(1).tolist(), images.labels, strict=True):
        best = max(
            itertools.combinations(range(NUM_PUBLIC), K),
            key=lambda chosen, pixels=pixels: sum(pixels[c] for c in chosen),
        )
        for public_class in best:
            expected[label, public_class] += 1
    assert torch.equal(counts_of(images.images, images.labels), expected)


def test_noise_reaches_every_cell_with_standard_deviation_sqrt_k_times_the_multiplier():
    images, multiplier = image_set(4), 2.0
    exact = counts_of(images.images, images.labels)
    noise = torch.stack(
        [ask(images, ledger(), multiplier=multiplier, seed=s) - exact for s in range(300)]
    )
    assert (noise != 0).all()
    # 300 x 14 draws: the standard error of the deviation is sd / sqrt(2 * 4200) = 1.1 %
    assert noise.std().item() == pytest.approx(math.sqrt(K) * multiplier, rel=0.05)
    assert noise.mean().abs().item() < 4 * math.sqrt(K) * multiplier / math.sqrt(4200)


def test_the_noise_of_two_secure_queries_shares_nothing():
    images = image_set(4)
    first, again = (ask(images, ledger(), source=secure_source()) for _ in range(2))
    assert not (first == again).any()


def test_the_receipt_says_how_the_answer_was_released():
    receipt = query_receipt(
        image_set(4).with_public_size(5),
        classes_per_image=K,
        noise_multiplier=2.0,
        source=secure_source(),
        data_id="a1b2",
    )
    assert receipt == {
        "mechanism": "gaussian histogram",
        "noise_multiplier": 2.0,
        "sensitivity_l2": pytest.approx(math.sqrt(3)),
        "classes_per_image": 3,
        "num_labels": 2,
        "public_size": 5,
        "data_id": "a1b2",
        "noise_source": "os",
        "insecure": False,
    }


def test_the_query_is_charged_once_and_a_second_one_is_refused():
    images, book = image_set(4), ledger()
    ask(images, book)
    assert book.charged(QUERY) == 1
    with pytest.raises(BudgetError):
        ask(images, book)


def test_nothing_is_released_when_the_budget_is_too_small():
    book = ledger(epsilon=0.01)
    with pytest.raises(BudgetError):
        ask(image_set(4), book)
    assert book.charged(QUERY) == 0


def test_more_classes_than_the_public_set_has_are_refused_with_the_largest_number():
    with pytest.raises(ConfigError, match="use at most 3"):
        ask(image_set(4), ledger(), k=4)
