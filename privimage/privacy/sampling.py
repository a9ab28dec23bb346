"""Poisson sampling: every image enters a batch by its own coin (Abadi et al. 2016, section 3.1).

The accounting of DP-SGD holds for this sampling and no other: not for shuffled passes, not for
batches of fixed size. Private: the returned indices and how many there are; neither may be logged.
"""

from jaxtyping import Int64
from torch import Tensor

from privimage.privacy.rng import RandomSource, bernoulli


def poisson_sample(
    source: RandomSource, num_examples: int, *, rate: float
) -> Int64[Tensor, " drawn"]:
    """Indices of the images drawn, ascending. PRIVATE. May be empty.

    Guarantee:
        Each image is in by an independent coin of `rate`, rounded down to a multiple of 2^-53,
        whoever else is there: the Poisson sampling that the accounting assumes.
    """
    return bernoulli(source, num_examples, rate=rate).nonzero().squeeze(1)
