import pytest
import torch
from torch import nn

from privimage.gradients.mean_gradient import MeanGradient
from privimage.machine.hardware import Compute


def losses_of(model, x, unused):
    assert unused is None
    return model(x).square().sum(1)


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_the_gradient_is_that_of_the_mean_loss_whatever_the_workers(num_workers):
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(7, 3)
    expected = torch.autograd.grad(losses_of(model, x, None).mean(), list(model.parameters()))
    gradient_of = MeanGradient(losses_of, model, compute=Compute(num_workers=num_workers))
    loss = gradient_of((x, None))
    torch.testing.assert_close(loss, losses_of(model, x, None).mean().detach())
    torch.testing.assert_close([p.grad for p in model.parameters()], list(expected))


def test_in_bfloat16_weights_and_gradients_stay_float32():
    model = nn.Linear(3, 2)
    MeanGradient(losses_of, model, compute=Compute(precision="bfloat16"))((torch.ones(4, 3), None))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
