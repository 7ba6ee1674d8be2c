"""The encoder in ONNX Runtime's favourite form says what the folded one says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mobilebert_hf import fold
from mobilebert_hf.deployment.network import prepare_for_export
from mobilebert_hf.deployment.ort_encoder import factor, lower

from ..models.helpers import SHAPES, build, make_batch, median_error, run, scaled, worst

# Wide enough that query and key are less work as two matmuls.
WIDE = {"hidden_size": 48, "intra_bottleneck_size": 16}


def lowered(model):
    network = prepare_for_export(model)
    lower(network)
    return network


@pytest.mark.parametrize("shape", SHAPES)
def test_it_says_the_same(shape):
    model = build(head="ForQuestionAnswering", pad_row=True, **{**WIDE, **SHAPES[shape]})
    network = lowered(model)
    assert worst(run(network, **make_batch()), run(model, **make_batch())) <= 1e-5
    factors = [len(layer.query_key) for layer in network.base_model.encoder.layer]
    shared = model.config.key_query_shared_bottleneck
    assert set(factors) == {2 if shared else 1}, "only what both read can be apart"


@settings(max_examples=20, deadline=None)
@given(exponent=st.floats(0, 3), zeros=st.sampled_from([0.0, 0.1, 1.0]))
def test_weights_of_any_size_go_apart_too(exponent, zeros):
    """Of many texts the median, see the test of folding; unpadded, as scores here are beyond what masks padding."""
    model = scaled(exponent, zeros, WIDE)
    network, folded, batch = lowered(model), fold(model), make_batch(lengths=(12,) * 48)
    assert all(len(layer.query_key) == 2 for layer in network.base_model.encoder.layer)
    exact = run(model.double(), **batch)
    error, before = (median_error(run(form, **batch), exact) for form in (network, folded))
    assert error <= min(1e-5, 1e-6 + 2 * before)


@settings(max_examples=50, deadline=None)
@given(
    rank=st.integers(1, 8),
    exponent=st.floats(0, 20),
    seed=st.integers(0, 2**32 - 1),
    zeros=st.sampled_from([0.0, 0.3]),
)
def test_a_product_of_low_rank_is_two(rank, exponent, seed, zeros):
    generator = torch.Generator().manual_seed(seed)
    rows = 10 ** ((torch.rand(32, 1, generator=generator) * 2 - 1) * exponent)
    rows *= torch.rand(32, 1, generator=generator) >= zeros
    linear = nn.Linear(24, 32)
    weight = torch.randn(32, rank, generator=generator) @ torch.randn(rank, 24, generator=generator)
    linear.weight.data = weight * rows
    inner, outer = factor(linear, 8)
    assert (inner.out_features, inner.bias, outer.in_features) == (8, None, 8)
    assert torch.equal(outer.bias, linear.bias)
    # Each row as exact as its own size lets it be.
    errors = (outer.weight.double() @ inner.weight.double() - linear.weight.double()).norm(dim=1)
    assert bool((errors <= 2e-6 * linear.weight.double().norm(dim=1)).all())


@pytest.mark.parametrize("rank", [8, 23, 24])
def test_any_other_stays_one(rank):
    torch.manual_seed(0)
    linear = nn.Linear(24, 32)
    assert list(factor(linear, rank)) == [linear]
