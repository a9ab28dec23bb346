"""The network: the published sizes, its initial weights and what its output depends on."""

import math
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from privimage.diffusion.unet import (
    UNet,
    UNetConfig,
    _Attention,
    _Residual,
    positional_embedding,
)
from privimage.errors import ConfigError
from tests import networks

# The networks of the paper's artifact, counted there: (image size, classes, base channels,
# multipliers, attention resolutions, parameters)
PUBLISHED = {
    "cifar10_32 s": (32, 10, 32, (1, 2, 2), (16,), 1_754_499),
    "cifar10_32 m": (32, 10, 32, (1, 2, 4), (16,), 3_954_563),
    "cifar10_32 b": (32, 10, 32, (1, 4, 4), (16,), 6_077_123),
    "cifar10_32 bm": (32, 10, 96, (1, 2, 2), (16,), 15_708_291),
    "cifar10_32 bb": (32, 10, 128, (1, 2, 2), (16,), 27_907_587),
    "cifar10_32 bbbb": (32, 10, 192, (1, 2, 2, 2), (16,), 88_578_819),
    "celeba_32": (32, 0, 32, (1, 2, 2), (8, 16), 1_804_451),
    "celeba_32 m": (32, 0, 32, (1, 2, 4), (8, 16), 4_153_123),
    "celeba_32 b": (32, 0, 32, (1, 4, 4), (8, 16), 6_275_683),
    "celeba_32 bm": (32, 0, 96, (1, 2, 2), (8, 16), 16_153_059),
    "celeba_32 bb": (32, 0, 128, (1, 2, 2), (8, 16), 28_697_219),
    "celeba_64": (64, 0, 32, (1, 1, 2, 2), (8, 16), 1_999_907),
    "celeba_64 m": (64, 0, 32, (1, 1, 2, 4), (8, 16), 4_348_579),
    "celeba_64 b": (64, 0, 32, (1, 1, 4, 4), (8, 16), 6_471_139),
    "celeba_64 bm": (64, 0, 96, (1, 1, 2, 2), (8, 16), 17_900_643),
    "celeba_64 bb": (64, 0, 128, (1, 1, 2, 2), (8, 16), 31_801_475),
}

# Module sizes of the three main networks in the order in which data meets them
RES, ATTENTION, RES_32, JOIN = 82_368, 16_768, 22_752, 127_616
TO_16 = [RES_32, RES_32, 23_808]  # the last one halves the resolution
AT_16 = [65_984, ATTENTION, RES, ATTENTION, 86_528]
MIDDLE = [RES, ATTENTION, RES]
UP_TO_16 = [JOIN, JOIN, JOIN, 86_528]
FROM_16 = [JOIN, JOIN, 107_072, ATTENTION, 86_528]
AT_32 = [44_416, 34_112, 34_112]
ENDS = {"in": [4_224, 16_512, 896], "out": [64, 867]}
AT_8 = [RES, ATTENTION, RES, ATTENTION, *MIDDLE, JOIN, JOIN, JOIN, ATTENTION, 86_528]
MODULE_SIZES = {
    "cifar10_32 s": [
        *(352, *ENDS["in"], *TO_16, *AT_16, RES, RES, *MIDDLE, *UP_TO_16),
        *(*FROM_16, *AT_32, *ENDS["out"]),
    ],
    "celeba_32": [*ENDS["in"], *TO_16, *AT_16, *AT_8, *FROM_16, *AT_32, *ENDS["out"]],
    "celeba_64": [
        *(*ENDS["in"], *TO_16, *TO_16, *AT_16, *AT_8, *FROM_16, *AT_32, 23_808),
        *(34_112, 34_112, 34_112, *ENDS["out"]),
    ],
}
M = TypeVar("M", bound=nn.Module)


def modules_of(unet: UNet, kind: type[M]) -> list[M]:
    return [module for module in unet.modules() if isinstance(module, kind)]


def published(name: str) -> UNet:
    size, num_classes, base, multipliers, attention, _ = PUBLISHED[name]
    with torch.device("meta"):
        return UNet(
            UNetConfig(
                image_size=size,
                num_channels=3,
                num_classes=num_classes,
                base_channels=base,
                channel_multipliers=multipliers,
                blocks_per_level=2,
                attention_resolutions=attention,
            )
        )


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_config(**changes) -> UNetConfig:
    return networks.small_unet(**({"image_size": 8, "attention_resolutions": (4,)} | changes))


def small_unet(**changes) -> UNet:
    """A network whose near-zero layers are as large as the others, so that nothing is hidden."""
    torch.manual_seed(0)
    unet = UNet(small_config(**changes))
    for parameter in unet.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return unet.double()


def small_input(num: int = 3, **changes):
    generator = torch.Generator().manual_seed(1)
    config = small_config(**changes)
    shape = (num, config.num_channels, config.image_size, config.image_size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    c_noise = torch.linspace(-1.5, 1, num, dtype=torch.float64)
    return x, c_noise, torch.arange(num) % 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name):
    assert num_parameters(published(name)) == PUBLISHED[name][-1]


@pytest.mark.parametrize("name", MODULE_SIZES)
def test_modules_come_in_the_order_of_the_data_with_the_published_sizes(name):
    def sizes(module):
        kind = type(module).__name__
        if kind in ("UNet", "ModuleList", "Sequential", "_Block"):
            return [size for child in module.children() for size in sizes(child)]
        return [num_parameters(module)] if num_parameters(module) else []

    assert sum(MODULE_SIZES[name]) == PUBLISHED[name][-1]
    assert sizes(published(name)) == MODULE_SIZES[name]


@pytest.mark.parametrize(
    ("name", "gigaflop"),
    [
        ("cifar10_32 s", 0.90),
        ("cifar10_32 m", 1.28),
        ("cifar10_32 bb", 13.79),
        ("celeba_32", 0.91),
        ("celeba_64", 2.15),
    ],
)
def test_a_forward_pass_costs_what_the_published_network_costs(name, gigaflop):
    # this holds the resolution at which each module runs, which counts of parameters do not see
    unet, size = published(name), PUBLISHED[name][0]
    labels = torch.zeros(1, dtype=torch.int64, device="meta") if PUBLISHED[name][1] else None
    with FlopCounterMode(display=False) as counter:
        unet(torch.zeros(1, 3, size, size, device="meta"), torch.zeros(1, device="meta"), labels)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gigaflop, abs=0.006)


def test_the_output_is_about_zero_at_initialisation():
    torch.manual_seed(0)
    unet = UNet(small_config())
    x, c_noise, labels = small_input()
    output = unet(x.float(), c_noise.float(), labels)
    # variance scale 1e-10: about 1e-5 of its input, which is of order 1
    assert 0 < output.abs().max() < 1e-3


def test_initial_weights_have_the_variance_that_fan_avg_gives():
    torch.manual_seed(0)
    unet = UNet(small_config(base_channels=64, channel_multipliers=(1,), attention_resolutions=()))
    residual, attention = modules_of(unet, _Residual)[0], modules_of(unet, _Attention)[0]
    # 3x3 convolution 64 -> 64: fan_in = fan_out = 576; linear map 64 -> 64: 64
    expected: dict[Any, float]
    expected = {residual.conv_in: 1 / 576, residual.conv_out: 1e-10 / 576}
    expected |= {attention.query: 0.1 / 64, attention.key: 0.1 / 64, attention.value: 0.1 / 64}
    expected |= {attention.output: 1e-10 / 64, unet.embedding[0]: 1 / 160}  # (64 + 256) / 2
    for layer, variance in expected.items():
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.06)
        # uniform: no weight beyond sqrt(3) standard deviations
        assert layer.weight.abs().max() <= math.sqrt(3 * variance) * (1 + 1e-6)
        assert not layer.bias.any()
    table = modules_of(UNet(small_config(num_classes=999)), nn.Embedding)[0].weight
    assert table.std().item() == pytest.approx(1, rel=0.05)


def test_the_positional_embedding_has_frequencies_from_1_to_1e_4():
    embedding = positional_embedding(torch.tensor([0.7, -2.0], dtype=torch.float64), 6)
    for row, c in zip(embedding.tolist(), (0.7, -2.0), strict=True):
        angles = [c * f for f in (1, 1e-2, 1e-4)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_classes", [3, 0])
def test_every_parameter_takes_part(num_classes):
    unet = small_unet(num_classes=num_classes)
    x, c_noise, labels = small_input(num=8)
    unet(x, c_noise, labels if num_classes else None).square().sum().backward()
    idle = [
        name
        for name, p in unet.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 1e-9
    ]
    # softmax does not see the key's bias: it adds the same to all scores of a query
    assert idle
    assert all(name.endswith("key.bias") for name in idle)


def test_an_output_depends_on_its_own_example_alone():
    unet = small_unet()
    x, c_noise, labels = small_input(num=4)
    together = unet(x, c_noise, labels)
    alone = [unet(x[i : i + 1], c_noise[i : i + 1], labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_noise_level_and_label_change_the_output():
    unet = small_unet()
    x, c_noise, labels = small_input(num=2)
    output = unet(x, c_noise, labels)
    assert not torch.allclose(unet(x, c_noise + 0.1, labels), output, rtol=1e-4)
    for label in range(4):  # three classes and the null label
        if label != labels[0]:
            other = torch.tensor([label, labels[1]])
            assert not torch.allclose(unet(x, c_noise, other)[0], output[0], rtol=1e-4)


def test_attention_agrees_with_pytorchs_own():
    block = modules_of(small_unet(), _Attention)[0]
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    h = F.group_norm(x, 4, block.norm.weight, block.norm.bias, eps=1e-6)  # 16 / 4 groups
    sequence = h.permute(0, 2, 3, 1).reshape(2, 16, 16)
    h = F.scaled_dot_product_attention(
        block.query(sequence), block.key(sequence), block.value(sequence)
    )
    h = block.output(h).reshape(2, 4, 4, 16).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), (x + h) / math.sqrt(2))


def resampled(x: torch.Tensor, resample: str | None) -> torch.Tensor:
    """2x2 averages, or every pixel twice each way, by indexing alone."""
    if resample == "down":
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if resample == "up" else x


@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_a_residual_block_resamples_both_branches_alike_and_halves_the_variance_of_their_sum(
    resample,
):
    unet = small_unet()
    block = next(b for b in modules_of(unet, _Residual) if b.resample == resample)
    x = torch.randn(2, block.norm_in.num_channels, 4, 4, dtype=torch.float64)
    embedding = torch.randn(2, 32, dtype=torch.float64)
    h = block.conv_in(resampled(F.silu(block.norm_in(x)), resample))
    h = h + block.embedding(embedding).view(2, -1, 1, 1)
    h = block.conv_out(F.silu(block.norm_out(h)))
    expected = (block.shortcut(resampled(x, resample)) + h) / math.sqrt(2)
    torch.testing.assert_close(block(x, embedding), expected)


def test_per_example_gradients_by_vmap_are_those_of_a_loop():
    unet = small_unet()
    weights = dict(unet.named_parameters())

    def loss(weights, x, c_noise, label):
        return functional_call(unet, weights, (x[None], c_noise[None], label[None])).square().mean()

    examples = small_input()
    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, *examples)
    for i in range(3):
        alone = torch.autograd.grad(loss(weights, *(e[i] for e in examples)), [*weights.values()])
        for name, gradient in zip(weights, alone, strict=True):
            torch.testing.assert_close(together[name][i], gradient, rtol=1e-8, atol=1e-10)


def test_dropout_is_at_work_in_training_only():
    unet = small_unet(dropout=0.5)
    inputs = small_input()
    assert not torch.equal(unet(*inputs), unet(*inputs))
    unet.eval()
    assert torch.equal(unet(*inputs), unet(*inputs))


def test_an_unconditional_network_takes_no_labels_and_a_conditional_one_needs_them():
    x, c_noise, labels = small_input()
    with pytest.raises(AssertionError, match="labels"):
        small_unet(num_classes=0)(x, c_noise, labels)
    with pytest.raises(AssertionError, match="labels"):
        small_unet()(x, c_noise, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 9}, "multiple of 2"),
        ({"image_size": 12, "channel_multipliers": (1, 1, 1, 1)}, "multiple of 8"),
        ({"base_channels": 6}, "make base_channels a multiple"),
        ({"base_channels": 36, "channel_multipliers": (1, 4)}, "which 32 groups do not divide"),
    ],
)
def test_an_impossible_network_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        UNet(small_config(**changes))
