"""Averaged weights: an exponential moving average with warm-up (docs/method.md, 5).

Samples are drawn from the average, which is far less noisy than the last weights. In fine-tuning it
is computed from weights that DP-SGD has already released: post-processing, at no privacy cost.
"""

import torch
from torch import Tensor, nn

from privimage.errors import ConfigError


class Ema:
    """Average of the weights of `model`, which it follows; buffers are not averaged.

    The rate of update n (counted from 0) is min(rate, (1 + n) / (10 + n)), so that the first
    weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, *, rate: float = 0.999) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"ema_rate is {rate:g}; give a number in [0, 1)")
        self.rate = rate
        self.parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._followed = dict(model.named_parameters())

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Move towards the present weights, `num_updates` updates having been made before."""
        rate = min(self.rate, (1 + num_updates) / (10 + num_updates))
        present = [parameter.detach() for parameter in self._followed.values()]
        averages = list(self.parameters.values())
        torch._foreach_lerp_(averages, present, 1 - rate)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name; like a module's, they change with the next update."""
        return dict(self.parameters)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`; names and shapes must agree: broadcasting would hide a mistake."""
        found, own = (
            {name: tuple(t.shape) for name, t in side.items()} for side in (state, self.parameters)
        )
        if found != own:
            different = dict(found.items() ^ own.items())
            raise ConfigError(
                f"averaged weights and network differ in {', '.join(sorted(different))}; "
                "use the network configuration that the weights were trained with"
            )
        for name, tensor in self.parameters.items():
            tensor.copy_(state[name])
