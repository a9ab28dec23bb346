"""The query network: its size, its augmentation and that it learns."""

import dataclasses
import json
import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from privimage.classifiers.query_network import (
    QueryNetwork,
    accuracy,
    cosine_learning_rate,
    flip_randomly,
    shift_randomly,
    train_query_network,
)
from privimage.errors import ConfigError
from privimage.run_folder.checkpoint import Checkpoint
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import TrainingConfig

CPU = torch.device("cpu")


def small_network(block: Literal["bottleneck", "basic"] = "basic") -> QueryNetwork:
    torch.manual_seed(0)
    return QueryNetwork(4, num_channels=1, widths=(8, 12), blocks=(1, 1), block=block)


def textures(num: int) -> tuple[Tensor, Tensor]:
    """Noisy 8x8 images: flat, horizontal stripes, vertical stripes, checkerboard."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(num) % 4
    rows, columns = torch.arange(8)[:, None], torch.arange(8)[None, :]
    patterns = torch.stack(
        [0 * rows * columns, rows + 0 * columns, columns + 0 * rows, rows + columns]
    )
    noise = torch.randint(0, 60, (num, 8, 8), generator=generator)
    return ((patterns % 2)[labels] * 180 + noise)[:, None].to(torch.uint8), labels


TRAINING = {field.name for field in dataclasses.fields(TrainingConfig)}


def train(network: nn.Module, images: Tensor, labels: Tensor, **changes) -> None:
    settings = {"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "horizontal_flip": False}
    settings |= {name: changes.pop(name) for name in TRAINING & changes.keys()}
    options = {"seed": 0, "device": CPU} | changes
    train_query_network(network, images, labels, TrainingConfig(**settings), **options)


def test_the_papers_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = QueryNetwork(
            1000,
            num_channels=3,
            widths=(64, 128, 256, 512),
            blocks=(3, 4, 6, 3),
            block="bottleneck",
        )
    # ResNet-50 of ImageNet has 25,557,032; its 7x7 stem (9,408) becomes a 3x3 one (1,728)
    assert sum(p.numel() for p in network.parameters()) == 25_557_032 - 9_408 + 1_728 == 25_549_352
    assert network.feature_size == 2048


def test_the_levels_halve_the_image_from_the_second_on():
    network = QueryNetwork(
        3, num_channels=3, widths=(4, 4, 4, 4), blocks=(1, 2, 1, 1), block="bottleneck"
    )
    x = network.stem(torch.zeros(2, 3, 32, 32))
    sizes = []
    for layer in network.body:
        x = layer(x)
        sizes.append(x.shape[-1])
    assert sizes == [32, 16, 16, 8, 4]


@pytest.mark.parametrize(("block", "feature_size"), [("basic", 12), ("bottleneck", 48)])
def test_logits_are_a_linear_map_of_the_features(block, feature_size):
    network = small_network(block).eval()
    x = torch.rand(5, 1, 28, 28) * 2 - 1
    features = network.features(x)
    assert features.shape == (5, feature_size)
    torch.testing.assert_close(network(x), features @ network.head.weight.T + network.head.bias)


def test_a_residual_block_adds_its_body_to_its_input():
    layer = small_network().eval().body[0]
    x = torch.rand(2, 8, 8, 8)
    body = layer.get_submodule("body")
    torch.testing.assert_close(layer(x), (x + body(x)).clamp(min=0))


def test_training_separates_easy_classes_and_reports_every_step(tmp_path):
    images, labels = textures(100)
    network, seen = small_network(), []
    context = TrainingContext(
        stats=tmp_path / "stats.jsonl", progress=lambda *step: seen.append(step)
    )
    train(network, images, labels, epochs=6, context=context)
    assert not network.training
    assert accuracy(network, images, labels, batch_size=30, device=CPU) == 1.0
    # 100 images make 3 full batches of 32, in 6 epochs
    assert seen == [("query_network", n, 18) for n in range(1, 19)]
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [n * 32 for n in range(1, 19)]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_training_is_a_function_of_the_seed():
    images, labels = textures(64)
    networks = [small_network() for _ in range(3)]
    for network, seed in zip(networks, (5, 5, 6), strict=True):
        train(network, images, labels, seed=seed, epochs=1, horizontal_flip=True, augment_shift=1)
    first, same, other = (network.head.weight for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_step_is_sgd_with_momentum_and_weight_decay_at_the_rate_of_its_epoch():
    images, labels = textures(6)
    linear = nn.Linear(64, 4, bias=False)
    weight = linear.weight.detach().double().clone()
    settings = {"epochs": 2, "learning_rate": 0.3, "momentum": 0.5, "weight_decay": 0.1}
    train(nn.Sequential(nn.Flatten(), linear), images, labels, batch_size=6, **settings)
    # by hand in float64: v <- m v + grad + wd w, w <- w - rate v
    # rates: 0.3 and 0.3 (1 + cos pi/2) / 2
    x = images.flatten(1).double() / 127.5 - 1
    velocity = torch.zeros_like(weight)
    for rate in (0.3, 0.15):
        error = (x @ weight.T).softmax(dim=1) - torch.eye(4)[labels].double()
        velocity = 0.5 * velocity + error.T @ x / 6 + 0.1 * weight
        weight = weight - rate * velocity
    torch.testing.assert_close(linear.weight.double(), weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, {2}),
        ({"horizontal_flip": True}, {2, 5}),
        ({"augment_shift": 1}, {1, 2, 3}),
        ({"horizontal_flip": True, "augment_shift": 1}, {1, 2, 3, 4, 5, 6}),
    ],
)
def test_training_sees_the_augmentation_that_was_asked_for(changes, columns):
    images = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 2] = 255
    seen = set()

    class Watching(nn.Linear):
        def forward(self, x):
            seen.update((x == 1).nonzero()[:, 3].tolist())
            return super().forward(x.flatten(1))

    train(Watching(64, 2), images, torch.zeros(64, dtype=torch.int64), **changes)
    assert seen == columns


def test_a_set_smaller_than_a_batch_is_one_batch():
    images, labels = textures(8)
    seen = []
    context = TrainingContext(progress=lambda _, *step: seen.append(step))
    train(small_network(), images, labels, epochs=2, context=context)
    assert seen == [(1, 2), (2, 2)]


def test_accuracy_counts_the_largest_logit():
    class Brightness(nn.Module):
        def forward(self, x):
            assert not self.training
            value = x.mean(dim=(1, 2, 3))
            return torch.stack([-value, value], dim=1)

    images = torch.tensor([0, 0, 255, 255, 255], dtype=torch.uint8).view(5, 1, 1, 1)
    labels = torch.tensor([0, 1, 1, 1, 0])
    assert accuracy(Brightness(), images, labels, batch_size=2, device=CPU) == pytest.approx(0.6)


def test_the_learning_rate_follows_half_a_cosine():
    assert cosine_learning_rate(0.2, 0, 10) == 0.2
    assert cosine_learning_rate(0.2, 5, 10) == pytest.approx(0.1)
    assert cosine_learning_rate(0.2, 10, 10) == pytest.approx(0)
    assert cosine_learning_rate(1.0, 1, 4) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_about_half_of_the_images_are_mirrored_and_the_rest_untouched():
    images = torch.arange(4, dtype=torch.uint8).expand(1000, 1, 2, 4)
    flipped = flip_randomly(images, generator=torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert ((flipped == images).all(dim=(1, 2, 3)) ^ mirrored).all()
    assert 420 < mirrored.sum() < 580  # 500 +- 5 standard deviations of 15.8


def test_shifts_move_a_pixel_to_all_offsets_and_fill_with_black():
    images = torch.zeros(500, 2, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 9
    images[:, :, 0, 0] = 1
    shifted = shift_randomly(images, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    assert {tuple(p.tolist()) for p in (shifted[:, 0] == 9).nonzero()[:, 1:]} == {
        (row, column) for row in (1, 2, 3) for column in (1, 2, 3)
    }
    # the corner is lost when it moves up or left (5 of 9 offsets), and never comes in again
    corner = (shifted[:, 0] == 1).nonzero()
    assert {tuple(p.tolist()) for p in corner[:, 1:]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert shift_randomly(images, 0, generator=torch.Generator()) is images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1,)}, "as many positive numbers"),
        ({"widths": (), "blocks": ()}, "as many positive numbers"),
        ({"blocks": (1, 0)}, "as many positive numbers"),
    ],
)
def test_an_impossible_shape_is_refused(changes, message):
    settings = {"num_channels": 1, "widths": (8, 8), "blocks": (1, 1), "block": "basic"}
    with pytest.raises(ConfigError, match=message):
        QueryNetwork(2, **(settings | changes))


@pytest.mark.parametrize("stop_after", [1, 5, 8, 11])
def test_an_interrupted_training_ends_with_the_same_weights(stop_after, tmp_path):
    images, labels = textures(130)  # four batches of 32 an epoch, two images left out
    random = {"horizontal_flip": True, "augment_shift": 1}
    whole = small_network()
    train(whole, images, labels, **random)

    class Interrupted(Exception):
        pass

    def stop(stage, step, total):
        assert total == 12
        if step == stop_after:
            raise Interrupted

    checkpoint = Checkpoint(tmp_path / "network.pt", time_share=math.inf)
    context = TrainingContext(checkpoint=checkpoint, progress=stop)
    with pytest.raises(Interrupted):
        train(small_network(), images, labels, context=context, **random)
    continued = small_network()
    seen = []
    context = dataclasses.replace(context, progress=lambda _, step, total: seen.append(step))
    train(continued, images, labels, context=context, **random)
    assert seen == list(range(stop_after + 1, 13))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name
