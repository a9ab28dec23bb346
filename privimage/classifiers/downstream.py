"""Downstream utility: classifiers trained on synthetic images and tested on real ones.

Three of them, as in the paper (docs/method.md, 9): logistic regression and a one-layer perceptron
on pixels, and a small residual CNN. The last epoch counts; nothing is selected on test images. An
accuracy on sensitive test images is outside of the privacy guarantee.
"""

import logging
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from privimage.classifiers.query_network import accuracy, flip_randomly, train_query_network
from privimage.data.image_set import to_model_range
from privimage.errors import ConfigError
from privimage.machine.processes import ALONE, World
from privimage.run_folder.checkpoint import NOT_KEPT, Checkpoint
from privimage.settings.config import TrainingConfig

logger = logging.getLogger(__name__)
ClassifierKind = Literal["logistic_regression", "mlp", "cnn"]
CLASSIFIER_KINDS: tuple[ClassifierKind, ...] = ("logistic_regression", "mlp", "cnn")


@dataclass(frozen=True, kw_only=True)
class UtilityConfig:
    """How the classifiers are trained; the defaults are the paper's for 32 pixels."""

    seed: int
    device: torch.device
    horizontal_flip: bool = True  # off for digits and letters
    cnn_width: int = 64
    cnn_epochs: int = 50
    cnn_batch_size: int = 512
    cnn_learning_rate: float = 0.1
    cnn_momentum: float = 0.9
    cnn_weight_decay: float = 5e-4


def classify_with(
    kind: ClassifierKind,
    train_images: UInt8[Tensor, "train channel height width"],
    train_labels: Int[Tensor, " train"],
    test_images: UInt8[Tensor, "test channel height width"],
    test_labels: Int[Tensor, " test"],
    *,
    num_classes: int,
    config: UtilityConfig,
    checkpoint: Checkpoint = NOT_KEPT,
    world: World = ALONE,
) -> float:
    """Accuracy in [0, 1] on the test images after training on the others; a `checkpoint` and other
    processes are of use to the CNN alone.
    """
    if kind == "cnn":
        network = train_cnn(
            train_images,
            train_labels,
            num_classes=num_classes,
            config=config,
            checkpoint=checkpoint,
            world=world,
        )
        return accuracy(
            network,
            test_images,
            test_labels,
            batch_size=config.cnn_batch_size,
            device=config.device,
        )
    from sklearn.exceptions import ConvergenceWarning  # slow to import

    model = pixel_classifier(kind, seed=config.seed)
    if config.horizontal_flip:  # drawn once: these models see a fixed set
        generator = torch.Generator().manual_seed(config.seed)
        train_images = flip_randomly(train_images, generator=generator)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(pixels_as_rows(train_images), train_labels.numpy())
    for warning in caught:
        logger.warning("%s: %s", kind, warning.message)
    return float(model.score(pixels_as_rows(test_images), test_labels.numpy()))


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
    config: UtilityConfig,
    **how: Any,
) -> "UtilityCnn":
    """A new CNN, trained by the same loop as the query network; `how` as that one takes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = UtilityCnn(
            num_classes,
            num_channels=images.shape[1],
            image_size=images.shape[2],
            width=config.cnn_width,
        )
    training = TrainingConfig(
        epochs=config.cnn_epochs,
        batch_size=config.cnn_batch_size,
        learning_rate=config.cnn_learning_rate,
        momentum=config.cnn_momentum,
        weight_decay=config.cnn_weight_decay,
        horizontal_flip=config.horizontal_flip,
    )
    train_query_network(
        network,
        images,
        labels,
        training,
        seed=config.seed,
        device=config.device,
        **how,
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
