"""The page of traps names tests that exist, and hides no trap that nothing holds; and a trap that
belongs to no other file.
"""

import ast
import re
from pathlib import Path

import pytest
import torch

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss
from privimage.diffusion.unet import UNet
from privimage.gradients.engine import Engine
from privimage.privacy.clipping import ClippedGradientSum
from tests.networks import small_unet

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sharp_edges.md").read_text()
SECTIONS = dict(
    re.findall(r"^### (.+)\n((?:(?!#).*\n?)*)", PAGE, re.MULTILINE),
)


def named_in(text):
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def defined_in(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_has_all_its_sections():
    assert len(SECTIONS) == PAGE.count("\n### ")
    assert len(SECTIONS) > 30


@pytest.mark.parametrize("title", SECTIONS)
def test_a_trap_names_a_test_that_exists_or_says_that_it_is_not_avoided(title):
    text = SECTIONS[title]
    named = named_in(text)
    assert named or "Not avoided" in text or "No test" in text
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in defined_in(path), f"{path}::{name}"
    # every path that the section writes was understood above
    assert text.count("tests/") == len(named)


@pytest.mark.parametrize("title", SECTIONS)
def test_a_trap_is_told_in_two_or_three_lines(title):
    assert 2 <= len(SECTIONS[title].strip().splitlines()) <= 3


@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_in_bfloat16_too_one_image_moves_the_sum_by_at_most_the_clip_norm(strategy):
    torch.manual_seed(0)
    network = UNet(small_unet())
    denoiser = Denoiser(network)
    torch.nn.init.normal_(network.head.weight, std=0.1)  # at first it is about 0
    generator = torch.Generator().manual_seed(1)
    num, copies, clip_norm = 7, 2, 1e-3
    images = torch.rand(num, 1, 4, 4, generator=generator)
    sigma = torch.rand(num, copies, generator=generator) + 0.1
    noise = torch.randn(num, copies, 1, 4, 4, generator=generator)
    engine = Engine(strategy, micro_batch_size=5, precision="bfloat16")
    sum_of = ClippedGradientSum(denoising_loss, denoiser, clip_norm=clip_norm, engine=engine)

    def total(chosen):
        summed = sum_of([t[chosen] for t in (images, torch.arange(num) % 3, sigma, noise)])
        return torch.cat([value.double().flatten() for value in summed.values()])

    whole = total(torch.arange(num))
    for left_out in range(num):
        moved = (whole - total(torch.arange(num) != left_out)).norm().item()
        # float32 sums 7 values of up to a clip norm: 7 * 2^-24 per weight, over all of them
        assert 0.9 * clip_norm < moved <= clip_norm * (1 + 1e-4)
