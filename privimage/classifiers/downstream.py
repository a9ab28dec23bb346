"""Downstream utility: classifiers trained on synthetic images and tested on real ones.

Three of them, as in the paper (docs/method.md, 9): logistic regression and a one-layer perceptron
on pixels, and a small residual CNN. The last epoch counts; nothing is selected on test images. An
accuracy on sensitive test images is outside of the privacy guarantee.
"""

import logging
import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from privimage.classifiers.query_network import accuracy, flip_randomly, train_query_network
from privimage.data.image_set import ImageSet, to_model_range
from privimage.errors import ConfigError
from privimage.run_folder.training_context import BY_ITSELF, TrainingContext
from privimage.settings.config import EvaluationConfig, TrainingConfig

logger = logging.getLogger(__name__)
ClassifierKind = Literal["logistic_regression", "mlp", "cnn"]
CLASSIFIER_KINDS: tuple[ClassifierKind, ...] = ("logistic_regression", "mlp", "cnn")


CNN_LEARNING_RATE = 0.1


def classify_with(
    kind: ClassifierKind,
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    *,
    test: ImageSet,
    config: EvaluationConfig,
    seed: int,
    device: torch.device,
    context: TrainingContext = BY_ITSELF,
) -> float:
    """Accuracy in [0, 1] on the test images after training on the others; device and context are
    the CNN's alone.
    """
    if kind == "cnn":
        network = train_cnn(
            images,
            labels,
            num_classes=test.num_classes,
            config=config,
            seed=seed,
            device=device,
            context=context,
        )
        return accuracy(
            network, test.images, test.labels, batch_size=config.cnn_batch_size, device=device
        )
    from sklearn.exceptions import ConvergenceWarning  # slow to import

    model = pixel_classifier(kind, seed=seed)
    if config.horizontal_flip:  # drawn once: these models see a fixed set
        images = flip_randomly(images, generator=torch.Generator().manual_seed(seed))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(pixels_as_rows(images), labels.numpy())
    for warning in caught:
        logger.warning("%s: %s", kind, warning.message)
    return float(model.score(pixels_as_rows(test.images), test.labels.numpy()))


def pixel_classifier(kind: ClassifierKind, *, seed: int, max_iter: int | None = None) -> Any:
    """Logistic regression or the perceptron, of scikit-learn; without a limit both converge."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    if kind == "logistic_regression":
        return LogisticRegression(C=1.0, solver="lbfgs", max_iter=max_iter or 50_000)
    return MLPClassifier(max_iter=max_iter or 1000, random_state=seed)


def train_cnn(
    images: UInt8[Tensor, "num channel height width"],
    labels: Int[Tensor, " num"],
    *,
    num_classes: int,
    config: EvaluationConfig,
    seed: int,
    device: torch.device,
    context: TrainingContext = BY_ITSELF,
) -> "UtilityCnn":
    """A new CNN, trained by the same loop as the query network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UtilityCnn(
            num_classes,
            num_channels=images.shape[1],
            image_size=images.shape[2],
            width=config.cnn_width,
        )
    training = TrainingConfig(
        epochs=config.cnn_epochs,
        batch_size=config.cnn_batch_size,
        learning_rate=CNN_LEARNING_RATE,
        horizontal_flip=config.horizontal_flip,
    )
    train_query_network(
        network, images, labels, training, seed=seed, device=device, context=context
    )
    return network


class UtilityCnn(nn.Module):
    """The "ResNet9" of docs/method.md, 9; below 24 pixels its second layer is 3x3 with stride 1."""

    def __init__(self, num_classes: int, *, num_channels: int, image_size: int, width: int) -> None:
        super().__init__()
        if image_size < 6:
            raise ConfigError(
                f"utility CNN: images of {image_size} pixels are too small; it needs 6 or more, "
                "so prepare larger images or leave the CNN out"
            )
        kernel, stride = (5, 2) if image_size >= 24 else (3, 1)
        self.layers = nn.Sequential(
            _layer(num_channels, width),
            _layer(width, 2 * width, kernel=kernel, stride=stride),
            _ResidualPair(2 * width),
            _layer(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _ResidualPair(4 * width),
            _layer(4 * width, 2 * width, padding=0),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width, num_classes, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch class_"]:
        return 0.2 * self.head(self.layers(x))


class _ResidualPair(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(
            _layer(num_channels, num_channels), _layer(num_channels, num_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pair(x)


def _layer(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    padding: int | None = None,
) -> nn.Sequential:
    padding = kernel // 2 if padding is None else padding
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def pixels_as_rows(images: Tensor) -> np.ndarray:
    return to_model_range(images).flatten(1).numpy()
