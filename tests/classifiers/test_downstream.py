"""Downstream classifiers: size of the CNN, what they learn, and what decides the result."""

import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from privimage.classifiers.downstream import (
    CLASSIFIER_KINDS,
    CNN_LEARNING_RATE,
    ClassifierKind,
    UtilityCnn,
    classify_with,
    train_cnn,
)
from privimage.data.image_set import ImageSet
from privimage.errors import ConfigError
from privimage.settings.config import EvaluationConfig, TrainingConfig

CPU = torch.device("cpu")


def image_set(images: Tensor, labels: Tensor) -> ImageSet:
    names = tuple(map(str, range(int(labels.max()) + 1)))
    return ImageSet(images, labels, names, "test", len(images))


def classify(kind: ClassifierKind, train: ImageSet, test: ImageSet, **changes) -> float:
    settings = {"horizontal_flip": False, "cnn_width": 8, "cnn_epochs": 4, "cnn_batch_size": 64}
    config = EvaluationConfig(**(settings | changes))
    return classify_with(
        kind, train.images, train.labels, test=test, config=config, seed=0, device=CPU
    )


def digits() -> tuple[ImageSet, ImageSet]:
    """1,437 images to train on and 360 to test on, in a fixed order."""
    values, targets = load_digits(return_X_y=True)
    images = (torch.as_tensor(values).view(-1, 1, 8, 8) * 255 / 16).round().to(torch.uint8)
    labels = torch.as_tensor(targets)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return image_set(images[train], labels[train]), image_set(images[test], labels[test])


def sides(num: int) -> ImageSet:
    """Class 0 is bright on the left, class 1 on the right: a mirror swaps them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % 2
    images = torch.randint(0, 50, (num, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[labels == 0, :, :, :4] += 150
    images[labels == 1, :, :, 4:] += 150
    return image_set(images, labels)


def test_the_papers_cnn_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = UtilityCnn(10, num_channels=3, image_size=32, width=64)
    assert sum(p.numel() for p in network.parameters()) == 2_274_880


@pytest.mark.parametrize(
    ("image_size", "last_size"),
    # second layer, pool of 2, one convolution without padding: 32 -> 16 -> 8 -> 6 and so on
    [(32, 6), (28, 5), (24, 4), (16, 6), (8, 2), (6, 1)],
)
def test_the_cnn_pools_over_what_its_size_leaves(image_size, last_size):
    network = UtilityCnn(4, num_channels=1, image_size=image_size, width=2)
    maps = network.layers[:-2](torch.zeros(2, 1, image_size, image_size))
    assert maps.shape == (2, 4, last_size, last_size)
    assert network(torch.zeros(2, 1, image_size, image_size)).shape == (2, 4)


def test_the_logits_are_scaled_by_a_fifth():
    network = UtilityCnn(4, num_channels=1, image_size=8, width=2).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(network(x), network.layers(x) @ network.head.weight.T / 5)


def test_a_residual_pair_adds_to_its_input():
    pair = UtilityCnn(4, num_channels=1, image_size=8, width=2).eval().layers[2]
    x = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(pair(x) - x, pair.get_submodule("pair")(x))


def test_the_defaults_are_the_papers():
    defaults = EvaluationConfig()
    assert (defaults.cnn_width, defaults.cnn_epochs, defaults.cnn_batch_size) == (64, 50, 512)
    assert defaults.horizontal_flip
    used = TrainingConfig(epochs=1, batch_size=1, learning_rate=CNN_LEARNING_RATE)
    assert (used.learning_rate, used.momentum, used.weight_decay) == (0.1, 0.9, 5e-4)


def test_a_model_that_did_not_converge_is_logged_and_not_an_error(monkeypatch, caplog):
    def fit(self: MLPClassifier, *data: object) -> None:
        warnings.warn("iterations used up", ConvergenceWarning, stacklevel=1)

    monkeypatch.setattr(MLPClassifier, "fit", fit)
    monkeypatch.setattr(MLPClassifier, "score", lambda self, *data: 0.5)
    assert classify("mlp", sides(4), sides(4)) == 0.5
    assert "mlp: iterations used up" in caplog.text


def test_images_too_small_for_the_cnn_are_refused():
    with pytest.raises(ConfigError, match="5 pixels are too small"):
        UtilityCnn(4, num_channels=1, image_size=5, width=2)


@pytest.mark.parametrize(
    ("kind", "floor"), [("logistic_regression", 0.95), ("mlp", 0.97), ("cnn", 0.97)]
)
def test_real_digits_are_learned(kind, floor):
    assert floor <= classify(kind, *digits()) <= 1


@pytest.mark.parametrize("kind", CLASSIFIER_KINDS)
def test_random_flips_hide_the_side_and_are_off_when_told(kind):
    images, settings = sides(200), {"cnn_width": 2, "cnn_epochs": 2, "cnn_batch_size": 16}
    for flip in (False, True):
        result = classify(kind, images, images, horizontal_flip=flip, **settings)
        assert (result > 0.95) != flip


@pytest.mark.parametrize("kind", CLASSIFIER_KINDS)
def test_accuracy_is_the_share_of_test_labels_that_are_met(kind):
    images = sides(200)
    labels = images.labels.clone()
    labels[:50] = 1 - labels[:50]
    wrong, settings = image_set(images.images, labels), {"cnn_width": 2, "cnn_batch_size": 16}
    right, part = (classify(kind, images, test, **settings) for test in (images, wrong))
    assert (right, part) == (1.0, 0.75)


def test_the_cnn_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    images, config = sides(32), EvaluationConfig(cnn_width=2, cnn_epochs=1, cnn_batch_size=64)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    heads = [
        train_cnn(
            images.images, images.labels, num_classes=2, config=config, seed=seed, device=CPU
        ).head.weight
        for seed in (3, 3, 4)
    ]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
