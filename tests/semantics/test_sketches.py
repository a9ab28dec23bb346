import pytest
import safetensors.torch
import torch

from privimage.data.image_set import ImageSet, to_uint8
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.moments import Moments, clipped_steps, exact_sums, moments_query
from privimage.privacy.rng import secure_source
from privimage.semantics.sketches import (
    Sketches,
    frame_from,
    gaussians,
    public_frame,
    sketches_from,
    tensors_of,
)
from tests.ledgers import ledger_terms

SIZE, COMPONENTS = 8, 6


def smooth_images(num, *, seed, slant=None):
    """Grey images of a few broad waves; `slant` (one for each label) shades a label's from one side
    to the other.
    """
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, SIZE)
    waves = torch.stack([line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)])
    waves = torch.stack([*waves, waves[0] * waves[1], waves[0] ** 2, waves[1] ** 2])
    strength = torch.randn(num, len(waves), generator=generator) * 20
    names = ("all",) if slant is None else tuple(map(str, range(len(slant))))
    labels = torch.arange(num) % len(names)
    if slant is not None:
        strength[:, 0] += torch.tensor(slant)[labels]
    pixels = 127.5 + torch.einsum("nw,whv->nhv", strength, waves)
    pixels += torch.randn(num, SIZE, SIZE, generator=generator) * 3
    images = pixels.round().clamp(0, 255).to(torch.uint8)[:, None]
    return ImageSet(images, labels, names, "waves", num)


@pytest.fixture(scope="module")
def public():
    return smooth_images(3000, seed=0)


@pytest.fixture(scope="module")
def frame(public):
    return public_frame(public, num_components=COMPONENTS, seed=0)


def asked(images, frame, *, multiplier):
    source = secure_source()
    ledger = PrivacyLedger.create(None, ledger_terms(epsilon=1e9, random_source=source))
    return moments_query(
        images, frame.basis, noise_multiplier=multiplier, ledger=ledger, source=source
    )


def drawn_from(found, frame, *, num, seed=0):
    labels = torch.arange(num) % len(found.mean)
    generator = torch.Generator().manual_seed(seed)
    sketches = Sketches(found, frame, 0.5)
    return to_uint8(sketches.draw(labels, size=SIZE, generator=generator)), labels


def shades(images):
    """How much darker the left side of each image is than the right one."""
    pixels = images.float()
    return pixels[..., SIZE // 2 :].mean((1, 2, 3)) - pixels[..., : SIZE // 2].mean((1, 2, 3))


def test_the_frame_leads_from_pixels_to_coordinates_and_back(public, frame):
    pixels = public.images[:50].flatten(1).float() - frame.center
    coordinates = pixels @ (frame.basis.directions.float() / frame.basis.scale)
    again = (coordinates @ frame.back) @ (frame.basis.directions.float() / frame.basis.scale)
    assert torch.allclose(again, coordinates, atol=1e-4)
    assert (pixels - coordinates @ frame.back).std() < 4  # the noise of 3 beside waves of 20
    lengths = clipped_steps(public.images, frame.basis).norm(dim=1)
    assert 0.4 < (lengths > lengths.max() * 0.999).float().mean() < 0.6  # half of them are clipped


def test_sketches_look_like_their_label_from_afar(public, frame):
    private = smooth_images(3000, seed=1, slant=[-30.0, 0.0, 30.0])
    moments = asked(private, frame, multiplier=2.0)
    found = gaussians(moments, frame, noise_multiplier=2.0)
    images, labels = drawn_from(found, frame, num=900)
    for label in range(3):
        drawn, real = (
            shades(s[of == label]) for s, of in ((images, labels), (private.images, private.labels))
        )
        # clipping pulls long coordinates in: two thirds are enough to tell the labels apart
        assert 0.6 < (drawn.mean() + 100) / (real.mean() + 100) < 1.4
    means = torch.stack([shades(images[labels == label]).mean() for label in range(3)])
    assert means[1] - means[0] > 10
    assert means[2] - means[1] > 10


def test_with_noise_that_drowns_everything_sketches_are_what_public_images_are(public, frame):
    private = smooth_images(300, seed=1, slant=[-60.0, 60.0])
    worst = 0.0
    for _ in range(5):
        found = gaussians(asked(private, frame, multiplier=1e5), frame, noise_multiplier=1e5)
        images, labels = drawn_from(found, frame, num=1000)
        difference = shades(images[labels == 0]).mean() - shades(images[labels == 1]).mean()
        worst = max(worst, float(difference.abs()))
        assert torch.isfinite(found.root).all()
        assert images.float().std() < 90  # not black and white
    assert worst < 40  # real ones differ by 120


def test_without_noise_the_gaussian_is_that_of_the_coordinates(frame):
    private = smooth_images(20_000, seed=2, slant=[-10.0, 10.0])
    steps = clipped_steps(private.images, frame.basis) / 2**14
    sums = exact_sums(private.images, private.labels, num_labels=2, basis=frame.basis)
    exact = Moments(sums.count, sums.total / 2**14, sums.products / 2**28)
    found = gaussians(exact, frame, noise_multiplier=1e-3)
    for label in range(2):
        rows = steps[private.labels == label]
        covariance = found.root[label] @ found.root[label].mT
        assert torch.allclose(found.mean[label], rows.mean(0), atol=1e-4)
        assert torch.allclose(covariance, torch.cov(rows.T), atol=1e-3)


def test_labels_without_images_and_a_single_label_give_sketches_too(public, frame):
    nobody = smooth_images(4, seed=0, slant=[0.0, 0.0]).take(torch.empty(0, dtype=torch.int64))
    for private in (nobody, smooth_images(100, seed=3)):
        found = gaussians(asked(private, frame, multiplier=2.0), frame, noise_multiplier=2.0)
        images, labels = drawn_from(found, frame, num=7)
        assert images.shape == (7, 1, SIZE, SIZE)
        assert labels.tolist() == [i % private.num_classes for i in range(7)]


def test_public_images_that_are_all_alike_give_a_frame(frame):
    alike = ImageSet(
        torch.full((40, 1, 8, 8), 9, dtype=torch.uint8), torch.zeros(40).long(), ("a",), "", 40
    )
    flat = public_frame(alike, num_components=COMPONENTS, seed=0)
    found = gaussians(asked(alike, flat, multiplier=2.0), flat, noise_multiplier=2.0)
    images, _ = drawn_from(found, flat, num=3)
    assert (images.float() - 9).abs().max() <= 2


def test_another_seed_gives_other_sketches_and_the_same_seed_the_same(public, frame):
    found = gaussians(asked(public, frame, multiplier=2.0), frame, noise_multiplier=2.0)
    one, same, other = (drawn_from(found, frame, num=5, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_sketches_are_the_same_from_their_file(public, frame):
    moments = asked(public, frame, multiplier=2.0)
    kept = tensors_of(frame, moments, noise_multiplier=2.0, noise_level=0.7)
    found = safetensors.torch.load(safetensors.torch.save(kept))
    again = sketches_from(found)
    ours, _ = drawn_from(gaussians(moments, frame, noise_multiplier=2.0), frame, num=5)
    theirs, _ = drawn_from(again.found, frame_from(found), num=5)
    assert torch.equal(ours, theirs)
    assert again.noise_level == pytest.approx(0.7)
