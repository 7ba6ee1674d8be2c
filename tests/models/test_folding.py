"""Folded models have the outputs of the original models."""

import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from mobilebert_hf import FoldedMobileBertConfig, FoldedMobileBertForQuestionAnswering, fold, models
from mobilebert_hf.models.encoder import NoNorm

from .helpers import (
    HEADS,
    SHAPES,
    TINY,
    assert_same_outputs,
    build,
    make_batch,
    median_error,
    relative_error,
    run,
    scaled,
    student_config,
    worst,
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_head_gives_the_same_output(head, shape):
    model = build(head=head, pad_row=True, **SHAPES[shape])
    batch = make_batch(head=head)
    folded = fold(model)
    assert type(folded).__name__ == f"Folded{type(model).__name__}"
    assert worst(run(folded, **batch), run(model, **batch)) <= 1e-5


def test_no_norm_is_left_and_the_model_is_not_changed():
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model)
    assert not [module for module in folded.modules() if isinstance(module, NoNorm | nn.LayerNorm)]
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not folded.training


@pytest.mark.parametrize(("shape", "matmuls"), [("mobilebert", 1), ("tiny", 2)])
def test_a_layer_has_few_matmuls(shape, matmuls):
    folded = fold(build(**SHAPES[shape]))
    config = folded.config
    calls = []
    for name, module in folded.encoder.layer[0].named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: calls.append((name, output.shape[-1]))
            )
    run(folded, **make_batch())
    width = config.intra_bottleneck_size
    before_attention = [("narrow", width), ("projection", 3 * width)] if matmuls == 2 else [("projection", 4 * width)]
    assert calls[:matmuls] == before_attention
    assert len(calls) == matmuls + 2 + 2 * config.num_feedforward_networks


@settings(max_examples=40, deadline=None)
@given(exponent=st.floats(0, 3), zeros=st.sampled_from([0.0, 0.1, 1.0]), shape=st.sampled_from([{}, TINY]))
@example(exponent=0.9148460405303329, zeros=0.0, shape=TINY)
def test_weights_of_any_size_and_sign_fold(exponent, zeros, shape):
    """Compares medians over many sequences, because nearly equal large attention scores amplify rounding."""
    model = scaled(exponent, zeros, shape)
    folded, batch = fold(model), make_batch(lengths=(12, 9, 5) * 16)
    exact = run(model.double(), **batch)
    assert worst(run(fold(model), **batch), exact) <= 1e-8
    error, before = (median_error(run(network, **batch), exact) for network in (folded, model.float()))
    assert error <= min(1e-5, 1e-7 + 2 * before)
    assert bool(folded.config.scaled_residuals) == (zeros > 0)


def test_in_float64_folding_is_exact():
    model = scaled(3, 0.1, {}).double()
    assert worst(run(fold(model), **make_batch()), run(model, **make_batch())) <= 1e-12


def test_a_deep_model_has_scaled_residuals_only_where_necessary():
    model = build(num_hidden_layers=8)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.output.bottleneck.LayerNorm.weight.fill_(1e-5)
    folded = fold(model)
    assert folded.config.scaled_residuals == ["2.output", "5.output"]
    assert worst(run(folded, **make_batch()), run(model, **make_batch())) <= 1e-5


@pytest.mark.parametrize("shape", [{}, TINY])
def test_scaled_channels_fold_to_the_same_model(shape):
    """Equalization removes outlier channels."""
    model = build(head="ForQuestionAnswering", **shape)
    plain = fold(model)
    exponents = torch.arange(model.config.hidden_size) % 21 - 10
    exponents[-(len(exponents) % 21) or len(exponents) :] = 0
    assert exponents.sum() == 0
    scale_channels(model, exponents.double().exp2().float())
    uneven = fold(model)
    for name, value in plain.state_dict().items():
        if name not in ("mobilebert.encoder.scales", "qa_outputs.weight"):
            torch.testing.assert_close(uneven.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert worst(run(uneven, **make_batch()), run(plain, **make_batch())) <= 1e-6


@torch.no_grad()
def scale_channels(model, factor):
    """Scales the channels of the residual stream without changing the outputs."""
    encoder = model.base_model
    model.qa_outputs.weight /= factor
    encoder.embeddings.LayerNorm.weight *= factor
    encoder.embeddings.LayerNorm.bias *= factor
    for layer in encoder.encoder.layer:
        readers = [layer.bottleneck.input.dense]
        if layer.bottleneck.attention is not None:
            readers.append(layer.bottleneck.attention.dense)
        if not layer.bottleneck.all_narrow:
            readers.append(layer.attention.self.value)
        for reader in readers:
            reader.weight /= factor
        out = layer.output.bottleneck
        for parameter in (out.dense.weight, out.dense.bias[:, None], out.LayerNorm.bias[:, None]):
            parameter *= factor[:, None]


def test_hidden_states_are_those_of_the_original_model():
    model = build()
    expected = run(model, **make_batch(), output_hidden_states=True)
    actual = run(fold(model), **make_batch(), output_hidden_states=True)
    assert_same_outputs(dict(actual), {name: expected[name] for name in actual})


def test_hidden_states_can_be_asked_for_by_the_configuration():
    folded = fold(build(output_hidden_states=True))
    assert len(run(folded, **make_batch()).hidden_states) == folded.config.num_hidden_layers + 1


@pytest.mark.parametrize(
    "asked",
    [
        {"output_attentions": True},
        {"stop_layer": 1},
        {"capture_layers": [0]},
        {"capture_scores": [0]},
        {"layer_inputs": {0: 1}},
    ],
)
def test_unsupported_arguments_are_errors(asked):
    with pytest.raises(ValueError, match=f"A folded model does not support {next(iter(asked))}"):
        run(fold(build(head="ForPreTraining")), **make_batch(), **asked)


@pytest.mark.parametrize("zeros", [0.0, 0.1])
def test_a_folded_model_saves_and_loads(tmp_path, zeros):
    folded = fold(scaled(1, zeros, {}))
    folded.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert type(loaded) is FoldedMobileBertForQuestionAnswering
    assert loaded.config.model_type == "folded_mobilebert"
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is FoldedMobileBertConfig
    torch.testing.assert_close(loaded.state_dict(), folded.state_dict(), rtol=0, atol=0)
    assert_same_outputs(run(loaded, **make_batch()), run(folded, **make_batch()), tolerance=0)


def test_attention_kernels_agree():
    folded = fold(build())
    eager = run(folded, **make_batch())
    folded.set_attn_implementation("sdpa")
    assert_same_outputs(run(folded, **make_batch()), eager)


def test_a_stock_model_can_be_folded():
    config = transformers.MobileBertConfig(**{**student_config().to_dict(), "model_type": "mobilebert"})
    torch.manual_seed(0)
    stock = transformers.MobileBertForSequenceClassification(config).eval()
    folded = fold(stock)
    assert worst(run(folded, **make_batch()), run(stock, **make_batch())) <= 1e-5


def test_a_model_without_pooler_is_folded_without_pooler():
    config = student_config()
    for model in (
        models.MobileBertModel(config, add_pooling_layer=False),
        transformers.MobileBertModel(config, add_pooling_layer=False),
    ):
        folded = fold(model.eval())
        assert not [name for name in folded.state_dict() if "pooler" in name]
        batch = make_batch()
        assert relative_error(run(folded, **batch)[0], run(model, **batch)[0]) <= 1e-5


def test_the_dtype_does_not_change():
    for dtype in (torch.bfloat16, torch.float16):
        folded = fold(build().to(dtype))
        assert folded.dtype == dtype
        assert torch.isfinite(run(folded, **make_batch()).last_hidden_state).all()


def test_overflow_of_folded_weights_in_float16_is_an_error():
    model = build()
    for layer in model.encoder.layer:
        layer.output.bottleneck.LayerNorm.weight.data.fill_(1e-5)
    fold(model)
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense\..* overflows float16: fold the model in float32"):
        fold(model.half())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: build("IBBert"), "IBBertModel cannot be folded: expected a student"),
        (lambda: build(normalization_type="layer_norm"), "normalization_type='layer_norm' cannot be folded"),
        (lambda: build(use_bottleneck=False), "use_bottleneck=False cannot be folded"),
        (lambda: build(trigram_input=False, embedding_size=64), "Embeddings without a projection"),
        (lambda: fold(build()), "FoldedMobileBertModel cannot be folded"),
        (
            lambda: transformers.BertModel(transformers.BertConfig(hidden_size=24, num_hidden_layers=1)),
            "BertModel cannot be folded",
        ),
    ],
)
def test_models_that_cannot_be_folded_are_errors(model, message):
    with pytest.raises(ValueError, match=message):
        fold(model())


def test_every_head_has_a_folded_class():
    for head in HEADS:
        assert hasattr(models, f"FoldedMobileBert{head}")
