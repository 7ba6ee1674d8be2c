"""Quantization-aware training: ranges, rounding and gradients, and what is saved."""

import json

import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, PerChannelMinMaxObserver
from transformers import AutoModelForSequenceClassification

from mobilebert_hf import MobileBertConfig, MobileBertForSequenceClassification, fold
from mobilebert_hf.models.fake_quantization import (
    FakeQuantizedActivation,
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    disable_fake_quantization,
)

from ..deployment.helpers import SIZES, TINY


def student(**fields):
    torch.manual_seed(0)
    return MobileBertForSequenceClassification(MobileBertConfig(vocab_size=100, **{**SIZES, **fields})).eval()


def batch(rows=3, length=12):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 100, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def test_activations_are_rounded_as_in_torch():
    point = FakeQuantizedActivation().eval()
    library = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8)
    library.activation_post_process.min_val.fill_(-6.0)
    library.activation_post_process.max_val.fill_(6.0)
    library.scale, library.zero_point = library.activation_post_process.calculate_qparams()
    library.disable_observer()
    states = torch.linspace(-8, 8, 1001, requires_grad=True)
    torch.testing.assert_close(point(states), library(states), rtol=0, atol=1e-6)
    point(states).sum().backward()
    inside = (states.detach().abs() < 5.9).float()
    outside = states.detach().abs() > 6.1
    assert torch.equal(states.grad[inside.bool()], torch.ones_like(states.grad[inside.bool()]))
    assert not states.grad[outside].any(), "what is cut off has no gradient"


def test_weights_are_rounded_as_in_torch():
    linear = nn.Linear(16, 8)
    linear.weight.data[:, 1::2] = 0  # then sums of pairs do not change the scales
    observer = PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
    )
    observer(linear.weight)
    scale, zero = observer.calculate_qparams()
    expected = torch.fake_quantize_per_channel_affine(linear.weight, scale, zero.int(), 0, -127, 127)
    states = torch.eye(16)
    torch.testing.assert_close(FakeQuantizedLinear(linear)(states), expected.t() + linear.bias, rtol=0, atol=1e-6)
    table = nn.Embedding(8, 16)
    table.weight.data = linear.weight.data.clone()
    ids = torch.tensor([[1, 3], [3, 7]])
    torch.testing.assert_close(FakeQuantizedEmbedding(table)(ids), expected[ids], rtol=0, atol=1e-6)


def test_ranges_are_moving_averages_and_change_only_in_training():
    point = FakeQuantizedActivation()
    for _ in range(2000):
        point(torch.tensor([-1.0, 3.0]))
    assert (point.low.item(), point.high.item()) == pytest.approx((-1, 3), abs=1e-3)
    point.eval()
    point(torch.tensor([-50.0, 50.0]))
    assert (point.low.item(), point.high.item()) == pytest.approx((-1, 3), abs=1e-3)
    point.train()
    point(torch.tensor([-1.0, 1003.0]))
    # TensorFlow's ExponentialMovingAverage: decay min(0.999, (1 + n) / (10 + n)) at the n-th update.
    assert point.high.item() == pytest.approx(3 + 1000 * 9 / 2010, abs=0.01)


@pytest.mark.parametrize("fields", [{}, TINY])
def test_int8_is_close_after_the_ranges_are_learned(fields):
    model = student(hidden_act="relu6", **fields)
    aware = fold(model, quantization_aware=True).train()
    with torch.no_grad():
        for _ in range(300):
            aware(**batch())
        aware.eval()
        exact, rounded = model(**batch()).logits, aware(**batch()).logits
        disable_fake_quantization(aware)
        torch.testing.assert_close(aware(**batch()).logits, exact, rtol=1e-4, atol=1e-5)
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 0 < error <= 0.1


def test_a_trained_model_is_saved_and_loaded_unchanged(tmp_path):
    aware = fold(student(), quantization_aware=True).train()
    assert aware.config.hidden_act == "relu6"
    optimizer = torch.optim.Adam(aware.parameters(), lr=1e-3)
    labels, losses = torch.tensor([0, 1, 0]), []
    for _ in range(40):
        loss = aware(**batch(), labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    aware.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_aware"] is True
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch()).logits, aware(**batch()).logits)


def test_masked_scores_are_at_the_lower_end_of_the_range():
    aware = fold(student(), quantization_aware=True).eval()
    seen = {}
    layer = aware.base_model.encoder.layer[0]
    layer.scores.register_forward_pre_hook(lambda module, inputs: seen.update(scores=inputs[0]))
    with torch.no_grad():
        aware(**batch())
    assert (seen["scores"][1, :, :, 7:] == -6).all()
    assert (seen["scores"][0] != -6).all()


def test_bfloat16_and_autocast():
    aware = fold(student(), quantization_aware=True).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = aware(**batch(), labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in aware.parameters() if parameter.grad is not None)
    half = fold(student().to(torch.bfloat16), quantization_aware=True).eval()
    assert half(**batch()).logits.dtype == torch.bfloat16
