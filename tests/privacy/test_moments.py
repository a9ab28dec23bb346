import math

import pytest
import torch

from privimage.data.image_set import ImageSet
from privimage.errors import BudgetError, ConfigError
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.moments import (
    COORDINATE_STEPS,
    MOMENTS,
    Basis,
    Moments,
    check_moments_fit,
    clipped_steps,
    exact_sums,
    moments_query,
    noise_deviations,
)
from privimage.privacy.rng import insecure_source, secure_source
from tests.ledgers import ledger_terms

LABELS, SIZE, COORDINATES = 3, 6, 5


def image_set(num, *, seed=0):
    """Random images, a white and a black one among them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, 1, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    images[:1], images[1:2] = 255, 0
    return ImageSet(images, torch.arange(num) % LABELS, ("a", "b", "c"), "test", num)


def basis_of(length, *, seed=1):
    """Coordinates of a norm of about `length`."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(SIZE**2, COORDINATES, generator=generator, dtype=torch.float64)
    center = torch.full((SIZE**2,), 127.5, dtype=torch.float64)
    usual = 74 * SIZE * COORDINATES**0.5  # 74: deviation of a random byte
    return Basis.of(directions * length / usual, center)


def ledger(epsilon=10.0, source=None):
    return PrivacyLedger.create(
        None, ledger_terms(epsilon=epsilon, random_source=source or secure_source())
    )


def seeded(seed=0):
    return insecure_source(seed, insecure_for_reproduction=True)


def ask(images, *, basis=None, multiplier=2.0, source=None, book=None):
    source = source or secure_source()
    return moments_query(
        images,
        basis or basis_of(1.0),
        noise_multiplier=multiplier,
        ledger=book or ledger(epsilon=1e6, source=source),
        source=source,
    )


def in_noise(moments, *, multiplier):
    """Every released number once, in deviations of its noise, as one row a label."""
    of_count, of_total, of_square, of_product = noise_deviations(multiplier)
    above = torch.triu_indices(COORDINATES, COORDINATES, offset=1)
    return torch.cat(
        [
            moments.count[:, None] / of_count,
            moments.total / of_total,
            moments.products.diagonal(dim1=1, dim2=2) / of_square,
            moments.products[:, above[0], above[1]] / of_product,
        ],
        dim=1,
    )


@pytest.mark.parametrize("length", [0.3, 1.0, 50.0, 1e7])
def test_no_image_moves_the_moments_by_more_than_one_and_only_those_of_its_label(length):
    everyone, basis = image_set(7), basis_of(length)
    whole = ask(everyone, basis=basis, source=seeded())
    moves = []
    for left_out in range(len(everyone)):
        kept = torch.tensor([i for i in range(len(everyone)) if i != left_out])
        rest = ask(everyone.take(kept), basis=basis, source=seeded())
        moved = in_noise(whole, multiplier=1.0) - in_noise(rest, multiplier=1.0)
        label = left_out % LABELS
        moves.append(float(moved[label].norm()))
        moved[label] = 0
        assert not moved.any()
    assert max(moves) <= 1
    if length > 10:  # all of them are clipped, so that the whole unit is used
        assert min(moves) > 0.999


def test_an_image_gives_the_same_coordinates_whatever_stands_beside_it():
    images = image_set(9).images
    together = clipped_steps(images, basis_of(1.0))
    for i in range(9):
        assert torch.equal(clipped_steps(images[i : i + 1], basis_of(1.0))[0], together[i])
    assert torch.equal(clipped_steps(images.flip(0), basis_of(1.0)).flip(0), together)


@pytest.mark.parametrize("length", [1.0, 3.0, 1e3, 1e9])
def test_clipped_coordinates_are_whole_and_never_longer_than_the_radius(length):
    steps = clipped_steps(image_set(500).images, basis_of(length))
    assert torch.equal(steps, steps.trunc())
    assert (steps.square().sum(1) <= COORDINATE_STEPS**2).all()
    assert (steps.norm(dim=1) > 0.99 * COORDINATE_STEPS).sum() > 100  # some reach it


def test_sums_are_those_of_a_plain_loop_and_do_not_depend_on_the_order():
    images, basis = image_set(50), basis_of(1.0)
    sums = exact_sums(images.images, images.labels, num_labels=LABELS, basis=basis)
    total, products = torch.zeros(LABELS, COORDINATES), torch.zeros(LABELS, *[COORDINATES] * 2)
    total, products = total.double(), products.double()
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        row = clipped_steps(image[None], basis)[0]
        total[label] += row
        products[label] += torch.outer(row, row)
    assert torch.equal(sums.total, total)
    assert torch.equal(sums.products, products)
    assert sums.count.tolist() == images.labels.bincount().tolist()
    order = torch.randperm(50)
    other = exact_sums(images.images[order], images.labels[order], num_labels=LABELS, basis=basis)
    assert all(torch.equal(a, b) for a, b in zip(sums, other, strict=True))


def test_noise_has_the_stated_deviation_everywhere_and_labels_without_images_get_it_too():
    nobody = image_set(6).take(torch.empty(0, dtype=torch.int64))
    drawn = torch.stack([in_noise(ask(nobody, multiplier=3.0), multiplier=3.0) for _ in range(300)])
    # each of 63 deviations from 300 draws: off by 4 % usually, by 17 % (4 deviations) never
    assert torch.allclose(drawn.std(0), torch.ones_like(drawn[0]), atol=0.2)
    assert drawn.std().item() == pytest.approx(1, abs=0.02)
    flat = drawn.flatten(1)
    correlation = torch.corrcoef(flat.T) - torch.eye(flat.shape[1])
    assert correlation.abs().max() < 6 / math.sqrt(300)  # 1,953 pairs


def test_products_are_released_once_and_mirrored():
    noisy = ask(image_set(20))
    assert torch.equal(noisy.products, noisy.products.mT)


def test_the_answer_is_charged_before_anyone_has_it_and_never_given_twice():
    kept, book = [], ledger()

    def keep(noisy):
        assert book.charged(MOMENTS) == 0
        kept.append(noisy)

    query = {"noise_multiplier": 2.0, "ledger": book, "source": secure_source(), "keep": keep}
    noisy = moments_query(image_set(6), basis_of(1.0), **query)
    assert book.charged(MOMENTS) == 1
    assert all(torch.equal(a, b) for a, b in zip(noisy, kept[0], strict=True))
    with pytest.raises(BudgetError, match="1 of 1 reserved uses"):
        moments_query(image_set(6), basis_of(1.0), **query)
    assert len(kept) == 1


def test_a_budget_that_is_too_small_is_refused_before_the_images_are_read(monkeypatch):
    monkeypatch.delattr("privimage.privacy.moments.exact_sums")
    with pytest.raises(BudgetError, match="total epsilon"):
        ask(image_set(6), multiplier=0.5, book=ledger(epsilon=1.0))


def test_one_image_moves_deviations_by_what_the_formula_says():
    z = torch.tensor([0.1, -0.3, 0.2, 0.5, 0.0], dtype=torch.float64)
    one = Moments(torch.ones(1).double(), z[None], torch.outer(z, z)[None])
    square = float(z.square().sum())
    expected = math.sqrt(0.05 + 0.25 * square + 0.70 * square**2) / 4.0
    assert float(in_noise(one, multiplier=4.0).norm()) == pytest.approx(expected, rel=1e-12)


def test_more_directions_than_public_images_have_are_refused():
    check_moments_fit(18, 36, 100)
    with pytest.raises(ConfigError, match="num_components is 19"):
        check_moments_fit(19, 36, 100)
