"""The norm of gradients, and clipping by it, against float64."""

import math

import pytest
import torch
from torch import nn

from mobilebert_hf.training.gradients import clip_gradients, gradients_of, scaled_norm, total_norm


def network(scale, dtype=torch.float32):
    """Three parameters, the last of which has no gradient."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in [(7, 5), (11,), (3,)]]
    for parameter in parameters[:2]:
        parameter.grad = (torch.randn(parameter.shape, dtype=torch.float64) * scale).to(dtype)
    return nn.ParameterList(parameters)


def reference(model):
    return torch.cat([gradient.double().flatten() for gradient in gradients_of(model)]).norm().item()


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1.0, torch.float32),
        (1e-30, torch.float32),
        (1e25, torch.float32),
        (5e37, torch.float32),
        (1e25, torch.bfloat16),
        (2e4, torch.float16),
        (1e150, torch.float64),
    ],
)
def test_the_scaled_norm_is_that_of_float64(scale, dtype):
    model = network(scale, dtype)
    gradients = gradients_of(model)
    assert scaled_norm(gradients, total_norm(gradients, math.inf).item()) == pytest.approx(reference(model), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e15, 1e25, 5e37])
def test_clipping_keeps_the_direction(scale):
    model = network(scale)
    before, norm = [gradient.double() for gradient in gradients_of(model)], reference(model)
    quick = total_norm(gradients_of(model))
    assert quick.isfinite() == (scale < 1e19)
    clip_gradients(model.parameters(), 0.5, quick if quick.isfinite() else norm)
    for gradient, old in zip(gradients_of(model), before, strict=True):
        torch.testing.assert_close(gradient.double(), old * min(1.0, 0.5 / norm), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_the_largest_value_tells_what_is_not_finite(value):
    model = network(1e25)
    assert total_norm(gradients_of(model), math.inf).isfinite()
    model[0].grad[1, 2] = value
    assert not total_norm(gradients_of(model), math.inf).isfinite()


def test_no_gradients_have_norm_zero():
    assert total_norm([]) == 0
