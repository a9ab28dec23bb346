"""The averaged weights: the warm-up, what they follow, and the way back from a checkpoint."""

import pytest
import torch
from torch import nn

from privimage.diffusion.ema import Ema
from privimage.errors import ConfigError


def set_weights(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def model_at(value: float) -> nn.Linear:
    model = nn.Linear(2, 1)
    set_weights(model, value)
    return model


def test_the_average_starts_at_the_weights_and_is_a_copy_of_them():
    model = model_at(3.0)
    ema = Ema(model)
    set_weights(model, 5.0)
    assert {name: t.flatten().tolist() for name, t in ema.parameters.items()} == {
        "weight": [3.0, 3.0],
        "bias": [3.0],
    }
    assert not any(tensor.requires_grad for tensor in ema.parameters.values())


@pytest.mark.parametrize(
    ("num_updates", "rate"),
    # (1 + n) / (10 + n) is below .999 up to n = 8989
    [
        (0, 1 / 10),
        (1, 2 / 11),
        (90, 91 / 100),
        (8_989, 8_990 / 8_999),
        (8_990, 0.999),
        (10**6, 0.999),
    ],
)
def test_the_rate_warms_up_and_then_stays(num_updates, rate):
    model = model_at(0.0).double()
    ema = Ema(model, rate=0.999)
    set_weights(model, 1.0)
    ema.update(num_updates)
    # rate * 0 + (1 - rate) * 1
    assert ema.parameters["bias"].item() == pytest.approx(1 - rate, rel=1e-9)


def test_updates_follow_the_optimiser():
    model = model_at(1.0)
    ema = Ema(model, rate=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    expected = 1.0
    for step in range(30):
        model.zero_grad()
        model(torch.zeros(1, 2)).sum().backward()  # the bias has gradient 1
        optimizer.step()
        ema.update(step)
        rate = min(0.5, (1 + step) / (10 + step))
        expected = rate * expected + (1 - rate) * (1.0 - (step + 1))
    assert ema.parameters["bias"].item() == pytest.approx(expected, rel=1e-5)
    assert ema.parameters["weight"].flatten().tolist() == [1.0, 1.0]


def test_a_loaded_average_goes_on_as_if_it_had_never_stopped(tmp_path):
    model = model_at(0.0)
    straight = Ema(model)
    set_weights(model, 1.0)
    straight.update(0)
    torch.save(straight.state_dict(), tmp_path / "ema.pt")
    resumed = Ema(model)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for ema in (straight, resumed):
        ema.update(1)
    assert torch.equal(straight.parameters["weight"], resumed.parameters["weight"])


@pytest.mark.parametrize("other", [nn.Linear(3, 1), nn.Linear(2, 1, bias=False), nn.Linear(2, 2)])
def test_an_average_of_another_network_is_refused(other):
    with pytest.raises(ConfigError, match="averaged weights and network differ in"):
        Ema(model_at(0.0)).load_state_dict(Ema(other).state_dict())


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_never_forgets_is_refused(rate):
    with pytest.raises(ConfigError, match=r"ema_rate is .*\[0, 1\)"):
        Ema(model_at(0.0), rate=rate)
