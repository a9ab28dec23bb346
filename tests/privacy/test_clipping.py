"""Clipped sums against a plain autograd loop in float64, and the guarantee that they carry."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privimage.errors import ConfigError
from privimage.gradients.engine import Engine
from privimage.gradients.folded import supports
from privimage.privacy import clipping
from privimage.privacy.clipping import ClippedGradientSum
from privimage.privacy.noise import grid_step

NUM_EXAMPLES = 7


class SmallNetwork(nn.Module):
    """Convolution, GroupNorm, embedding, attention and a linear layer in one path."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.embedding = nn.Embedding(3, 4)
        self.attention = nn.Conv2d(4, 12, 1)
        self.linear = nn.Linear(4, 2)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = F.silu(self.norm(self.convolution(images)))
        h = h + self.embedding(labels)[:, :, None, None]
        query, key, value = self.attention(h).flatten(2).chunk(3, dim=1)
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        return self.linear((value @ weights.transpose(1, 2)).mean(2))


class UnknownLayer(SmallNetwork):
    """Holds a weight that the folded strategy has no rule for, so that the loop must serve it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0]))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().forward(images, labels) * self.scale


def losses_of(model: Callable, copies: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """One loss per image: the mean over its copies."""
    rows = labels[:, None].expand(copies.shape[:2]).flatten()
    outputs = model(copies.flatten(0, 1), rows).reshape(targets.shape)
    return ((outputs - targets) ** 2).mean((1, 2))


ENGINES = {
    "loop": Engine("loop"),
    "loop, two workers": Engine("loop", num_workers=2),
    "folded": Engine("folded", micro_batch_size=4),
    "folded, two workers": Engine("folded", micro_batch_size=2, num_workers=2),
}


@pytest.fixture(params=ENGINES)
def engine(request) -> Engine:
    return ENGINES[request.param]


@pytest.fixture
def network() -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork()


@pytest.fixture
def examples() -> tuple[Tensor, Tensor, Tensor]:
    """Two noise copies per image; targets from far to near, so that norms differ widely."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(NUM_EXAMPLES, 2, 1, 5, 5, generator=generator)
    labels = torch.randint(3, (NUM_EXAMPLES,), generator=generator)
    targets = torch.randn(NUM_EXAMPLES, 2, 2, generator=generator)
    return images, labels, targets * torch.logspace(1, -1, NUM_EXAMPLES)[:, None, None]


def gradients_by_loop(model: nn.Module, examples: tuple[Tensor, ...]) -> list[dict[str, Tensor]]:
    """The independent implementation: one example after the other through autograd, in float64."""
    model = copy.deepcopy(model).double()
    found = []
    for example in zip(*examples, strict=True):
        example = [t[None].double() if t.is_floating_point() else t[None] for t in example]
        gradients = torch.autograd.grad(losses_of(model, *example).sum(), list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        found.append(dict(zip(names, gradients, strict=True)))
    return found


def norm_of(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.double().flatten() for g in gradient.values()]).norm()


def clipped_by_loop(
    model: nn.Module, examples: tuple[Tensor, ...], clip_norm: float
) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p).double() for name, p in model.named_parameters()}
    for gradient in gradients_by_loop(model, examples):
        factor = (clip_norm / norm_of(gradient)).clamp(max=1)
        for name, value in gradient.items():
            total[name] += value * factor
    return total


def clipped(model, examples, engine, *, clip_norm=0.5):
    return ClippedGradientSum(losses_of, model, clip_norm=clip_norm, engine=engine)(examples)


def test_sum_equals_a_loop_in_float64_with_images_clipped_and_not(network, examples, engine):
    norms = torch.stack([norm_of(g) for g in gradients_by_loop(network, examples)])
    clip_norm = norms.median().item()
    assert (norms > 2 * clip_norm).any()
    assert (norms < clip_norm / 2).any()
    expected = clipped_by_loop(network, examples, clip_norm)
    found = clipped(network, examples, engine, clip_norm=clip_norm)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_nothing_is_clipped_under_a_huge_clip_norm(network, examples, engine):
    found = clipped(network, examples, engine, clip_norm=1e6)
    expected = torch.autograd.grad(losses_of(network, *examples).sum(), list(network.parameters()))
    found = [value.float() for value in found.values()]
    torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=2e-2)  # steps of 1e6 * 2^-28


@pytest.mark.parametrize("num_workers", [1, 2, 3, 20])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 7, 100])
def test_result_does_not_depend_on_workers_and_micro_batches(
    network, examples, micro_batch_size, num_workers
):
    expected = clipped(network, examples, ENGINES["folded"])
    engine = Engine("folded", micro_batch_size=micro_batch_size, num_workers=num_workers)
    found = clipped(network, examples, engine)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [1e-3, 3.0])
def test_one_image_moves_the_sum_by_at_most_the_clip_norm_to_the_last_bit(
    network, examples, engine, clip_norm
):
    whole = clipped(network, examples, engine, clip_norm=clip_norm)
    norms = [norm_of(g).item() for g in gradients_by_loop(network, examples)]
    for left_out, norm in enumerate(norms):
        kept = torch.arange(NUM_EXAMPLES) != left_out
        rest = clipped(network, tuple(t[kept] for t in examples), engine, clip_norm=clip_norm)
        moved = norm_of({name: whole[name] - rest[name] for name in whole})
        assert (1 - 1e-4) * min(norm, clip_norm) < moved <= clip_norm


def test_sums_are_whole_steps(network, examples, engine):
    step = grid_step(1e-3)
    for value in clipped(network, examples, engine, clip_norm=1e-3).values():
        assert torch.equal(value, (value / step).round() * step)


def test_one_of_two_thousand_images_counts_to_the_last_bit(engine):
    # a sum in float32 would lose the 1e-4's low bits beside .2
    model = nn.Linear(2, 1, bias=False)
    sum_of = ClippedGradientSum(lambda m, x: m(x).sum(1), model, clip_norm=1.0, engine=engine)
    images = torch.tensor([[1e-4, 1.0]]).repeat(2000, 1)
    whole, rest = sum_of((images,)), sum_of((images[1:],))
    only = sum_of((images[:1],))
    assert torch.equal(whole["weight"] - rest["weight"], only["weight"])
    assert torch.equal(whole["weight"], 2000 * only["weight"])


@pytest.mark.parametrize(
    "gradient", [[1.0, 1e-12], [1e19, 1e19], [3e38, 3e38], [1e-38, 1e-45], [1 + 1e-7, 0.0]]
)
def test_extreme_gradients_are_within_the_clip_norm(engine, gradient):
    model = nn.Linear(2, 1, bias=False)
    sum_of = ClippedGradientSum(lambda m, x: m(x).sum(1), model, clip_norm=1.0, engine=engine)
    found = sum_of((torch.tensor([gradient]),))["weight"]
    norm = torch.tensor(gradient).double().norm()
    assert min(1.0, norm) - 1e-5 < found.norm() <= 1.0


def test_a_million_small_numbers_are_not_rounded_up_over_the_clip_norm(engine):
    # each is 268,435.4 steps after clipping: rounded up, they would be longer by 2e-6 in all
    model = nn.Linear(1_000_000, 1, bias=False)
    sum_of = ClippedGradientSum(lambda m, x: m(x).sum(1), model, clip_norm=1.0, engine=engine)
    norm = sum_of((torch.full((1, 1_000_000), 0.5),))["weight"].norm()
    assert 1 - 1e-5 < norm <= 1


def test_an_empty_batch_gives_zeros_of_every_parameter(network, examples, engine):
    found = clipped(network, tuple(t[:0] for t in examples), engine)
    shapes = {name: p.shape for name, p in network.named_parameters()}
    assert {name: value.shape for name, value in found.items()} == shapes
    assert all(not value.any() for value in found.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_with_an_unusable_gradient_counts_as_zero(network, examples, bad, engine):
    images, labels, targets = examples
    spoiled = (images, labels, targets.clone())
    spoiled[2][2] = bad
    kept = torch.arange(NUM_EXAMPLES) != 2
    expected = clipped(network, tuple(t[kept] for t in examples), engine)
    torch.testing.assert_close(clipped(network, spoiled, engine), expected, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_get_no_gradient(network, examples, engine):
    network.embedding.weight.requires_grad_(False)
    found = clipped(network, examples, engine)
    assert "embedding.weight" not in found
    assert "linear.weight" in found


def test_an_absent_argument_is_passed_on_as_none(network, examples, engine):
    def unlabelled(model: Callable, copies: Tensor, labels: None, targets: Tensor) -> Tensor:
        assert labels is None
        return losses_of(model, copies, torch.zeros(len(copies), dtype=torch.int64), targets)

    images, labels, targets = examples
    sum_of = ClippedGradientSum(unlabelled, network, clip_norm=0.5, engine=engine)
    found = sum_of((images, None, targets))
    expected = clipped(network, (images, torch.zeros_like(labels), targets), engine)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_weights_and_their_gradients_are_left_alone(network, examples, engine):
    before = copy.deepcopy(network.state_dict())
    found = clipped(network, examples, engine)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in network.parameters())
    assert not any(value.requires_grad for value in found.values())


def test_a_network_that_mixes_images_through_running_statistics_is_refused(engine):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(ConfigError, match="BatchNorm2d, which mixes images"):
        ClippedGradientSum(losses_of, network, clip_norm=1.0, engine=engine)


class Mixing(SmallNetwork):
    """Subtracts the mean over all rows, as a batch norm does."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        outputs = super().forward(images, labels)
        return outputs - 1e-3 * outputs.mean(0)


class Drawing(SmallNetwork):
    """Draws random numbers outside of any layer that is known to."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().forward(images + 1e-3 * torch.rand(len(images), 1, 1, 1), labels)


@pytest.mark.parametrize("unfit", [Mixing, Drawing])
def test_a_network_in_which_examples_meet_or_chance_plays_is_found_out(unfit, examples, engine):
    torch.manual_seed(0)
    sum_of = ClippedGradientSum(losses_of, unfit(), clip_norm=0.5, engine=engine)
    if engine.strategy == "loop" and unfit is Mixing:
        return sum_of.check_independence(examples)  # one by one, rows of an image meet only its own
    with pytest.raises(ConfigError, match="depends on which others are there, or on chance"):
        sum_of.check_independence(examples)
    return None


@pytest.mark.parametrize("num", [1, 4, 5, 9])
def test_norms_are_computed_in_one_shape_however_many_examples_are_left(
    network, examples, monkeypatch, num
):
    shapes, original = set(), clipping._norms

    def norms(gradients):
        shapes.update(len(g) for g in gradients)
        return original(gradients)

    monkeypatch.setattr(clipping, "_norms", norms)
    several = [t.repeat(2, *[1] * (t.dim() - 1))[:num] for t in examples]
    engine = Engine("folded", micro_batch_size=4)
    ClippedGradientSum(losses_of, network, clip_norm=0.5, engine=engine)(several)
    assert shapes == {4}


@pytest.mark.parametrize("name", ["loop", "loop, two workers"])
def test_the_examples_of_an_ordinary_network_do_not_meet(network, examples, name):
    # of a folded pass in tests/gradients: a library may round tiny rows by their place
    sum_of = ClippedGradientSum(losses_of, network, clip_norm=0.5, engine=ENGINES[name])
    sum_of.check_independence(examples)


def test_dropout_is_refused_while_it_drops(network, examples, engine):
    network.linear = nn.Sequential(nn.Dropout(0.1), network.linear)
    sum_of = ClippedGradientSum(losses_of, network, clip_norm=0.5, engine=engine)
    with pytest.raises(ConfigError, match="Dropout: its random numbers"):
        sum_of(examples)
    network.eval()
    ClippedGradientSum(losses_of, network, clip_norm=0.5, engine=engine)(examples)


def test_every_folded_pass_has_one_shape_however_many_images_there_are(network, examples):
    sizes = set()

    def watched(model: Callable, *arguments: Tensor) -> Tensor:
        sizes.add(len(arguments[0]))
        return losses_of(model, *arguments)

    engine = Engine("folded", micro_batch_size=4)
    sum_of = ClippedGradientSum(watched, network, clip_norm=0.5, engine=engine)
    for num in range(1, NUM_EXAMPLES + 1):
        sum_of(tuple(t[:num] for t in examples))
    assert sizes == {4}


def test_the_loop_serves_layers_without_a_rule_and_folded_refuses_them(examples):
    torch.manual_seed(0)
    network = UnknownLayer()
    assert not supports(network)
    found = clipped(network, examples, ENGINES["loop, two workers"])
    expected = clipped_by_loop(network, examples, 0.5)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="no rule for per-image gradients of a UnknownLayer"):
        clipped(network, examples, ENGINES["folded"])


def test_weights_are_those_of_the_network_at_the_time_of_the_call(network, examples, engine):
    sum_of = ClippedGradientSum(losses_of, network, clip_norm=0.5, engine=engine)
    sum_of(examples)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(sum_of(examples), clipped(network, examples, engine))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_a_clip_norm_out_of_range_is_named(network, examples, engine, clip_norm):
    with pytest.raises(ConfigError, match="finite number above 0"):
        clipped(network, examples, engine, clip_norm=clip_norm)


@pytest.mark.parametrize(
    "setting",
    [{"micro_batch_size": 0}, {"num_workers": 0}, {"strategy": "vmap"}, {"precision": "float16"}],
)
def test_an_engine_out_of_range_is_named(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Engine(**setting)


def test_examples_of_different_numbers_are_refused(network, examples, engine):
    with pytest.raises(ConfigError, match=r"\[3, 7\]"):
        clipped(network, (examples[0][:3], *examples[1:]), engine)
