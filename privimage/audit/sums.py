"""Clipped sums of gradients such as no training has: does the sensitivity hold to the last bit?

A linear map's gradient is its input, so that any gradient can be asked for. The sums are looked at
in float64 before noise is added, without the rounding of what is released.
"""

import torch
from torch import Tensor, nn

from privimage.gradients.engine import Engine
from privimage.privacy.clipping import ClippedGradientSum

CLIP_NORM = 1.0
MANY = 1_000_000  # numbers in one gradient: where each that is rounded up would show
ENGINES = (Engine("loop"), Engine("folded", micro_batch_size=4))


def exact_sums(seed: int) -> dict[str, float]:
    """`largest_alone`: the longest clipped gradient, in clip norms; above 1 by any bit is too long.
    `unusable`: how far gradients that are not finite move a sum. `lost`: how far a sum of many
    images is from the sum of each. Over both engines.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-3, 30, 400)
    some = torch.randn(400, 3, generator=generator) * scales[:, None]
    small = torch.rand(1, MANY, generator=generator) * 0.02 - 0.01
    unusable = torch.tensor([[torch.nan, 0.0, 1.0], [torch.inf, 0.0, 1.0], [1.0, 2.0, -torch.inf]])
    alone, moved, lost = [], [], []
    for engine in ENGINES:
        sum_some = _Sums(3, engine)
        single = [sum_some(gradient[None]) for gradient in some]
        alone += [float(s.norm()) for s in single] + [float(_Sums(MANY, engine)(small).norm())]
        moved.append(float(sum_some(unusable).abs().nan_to_num(torch.inf).max()))
        lost.append(float((sum_some(some) - torch.stack(single).sum(0)).abs().max()))
        equal = some[-1:].expand(64, -1)
        lost.append(float((sum_some(equal) - 64 * single[-1]).abs().max()))
    return {
        "largest_alone": max(alone) / CLIP_NORM,
        "unusable": max(moved) / CLIP_NORM,
        "lost": max(lost) / CLIP_NORM,
    }


class _Sums:
    """The clipped sum of gradients, given as rows."""

    def __init__(self, length: int, engine: Engine) -> None:
        model = nn.Linear(length, 1, bias=False)
        self._sum = ClippedGradientSum(
            lambda m, x: m(x).sum(1), model, clip_norm=CLIP_NORM, engine=engine
        )

    def __call__(self, gradients: Tensor) -> Tensor:
        return self._sum((gradients,))["weight"].flatten()
