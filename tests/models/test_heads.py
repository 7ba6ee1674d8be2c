"""Heads of MobileBERT and IB-BERT: tied weights, resizing, losses and invalid inputs."""

import pytest
import torch
from safetensors.torch import load_file

from .helpers import VOCAB, assert_close, build, families, make_batch, make_labels, run

# ---------------------------------------------------------------------------------------------------------------------
# Masked-LM head: tied weights, resizing, positions
# ---------------------------------------------------------------------------------------------------------------------


def assert_tied(model):
    predictions = model.cls.predictions
    assert predictions.decoder.weight is model.get_input_embeddings().weight
    assert predictions.decoder.bias is predictions.bias


@families
@pytest.mark.parametrize("head", ["ForPreTraining", "ForMaskedLM"])
def test_weights_are_tied_after_loading_and_saved_once(tmp_path, family, head):
    model = build(family, head)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert_tied(model)
    assert_tied(loaded)
    assert [path.name for path in tmp_path.glob("*model*")] == ["model.safetensors"]
    saved = load_file(tmp_path / "model.safetensors")
    assert not {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} & set(saved)


@families
@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"new_num_tokens": 120}, 120),
        ({"new_num_tokens": 120, "mean_resizing": False}, 120),
        ({"new_num_tokens": 50}, 50),
        ({"pad_to_multiple_of": 64}, 128),
        ({"new_num_tokens": 100, "pad_to_multiple_of": 8}, 104),
        ({}, VOCAB),
    ],
)
def test_resizing_the_vocabulary(tmp_path, family, arguments, size):
    model, batch = build(family, "ForMaskedLM"), make_batch()
    batch["input_ids"] %= 50
    before = run(model, **batch).logits
    model.resize_token_embeddings(**arguments)
    predictions = model.cls.predictions
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == size
    assert model.get_input_embeddings().weight.shape == predictions.decoder.weight.shape == (size, 16)
    assert predictions.dense.weight.shape == (48, size)
    assert (predictions.dense.in_features, predictions.decoder.out_features) == (size, size)
    assert predictions.bias.shape == (size,)
    assert_tied(model)
    after = run(model, **batch).logits
    assert after.shape[-1] == size
    old = min(size, VOCAB)
    assert_close(after[..., :old], before[..., :old])
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert_tied(loaded)
    assert torch.equal(run(loaded.eval(), **batch).logits, after)


@families
def test_resizing_keeps_the_pad_row_zero_and_out_of_training(family):
    model, batch = build(family, "ForMaskedLM"), make_batch()
    model.resize_token_embeddings(120)
    model(**batch, **make_labels("ForMaskedLM", batch)).loss.backward()
    table = model.get_input_embeddings()
    assert table.padding_idx == 0
    assert (table.weight[0] == 0).all()
    assert (table.weight.grad[0] == 0).all()


@families
def test_prediction_mask_gives_the_logits_of_its_positions(family):
    model, batch = build(family, "ForPreTraining"), make_batch()
    inputs = {**batch, **make_labels("ForPreTraining", batch)}
    mask = inputs["labels"] != -100
    every, some = run(model, **inputs), run(model, **inputs, prediction_mask=mask)
    assert_close(some.prediction_logits, every.prediction_logits[mask])
    assert_close(some.loss, every.loss)


@families
def test_the_pretraining_loss_is_the_sum_over_the_labels(family):
    model, batch = build(family, "ForPreTraining"), make_batch()
    labels = make_labels("ForPreTraining", batch)
    masked_lm, next_sentence = (run(model, **batch, **{name: value}).loss for name, value in labels.items())
    assert_close(run(model, **batch, **labels).loss, masked_lm + next_sentence)
    assert run(model, **batch).loss is None


@families
def test_a_pretraining_model_with_stop_layer_has_captures_and_no_logits(family):
    output = run(build(family, "ForPreTraining"), **make_batch(), stop_layer=2, capture_layers=[1], capture_scores=[1])
    assert set(output) == {"layer_outputs", "attention_scores"}


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------


TOKENS = torch.ones(1, 2, dtype=torch.long)


@families
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.ones(1, 41, dtype=torch.long)}, "41 tokens; max_position_embeddings=40"),
        ({}, "exactly one of input_ids and inputs_embeds"),
        (
            {"input_ids": TOKENS, "inputs_embeds": torch.ones(1, 2, 16)},
            "exactly one of input_ids and inputs_embeds",
        ),
        ({"input_ids": TOKENS, "start_layer": 1}, "start_layer=1 requires inputs_embeds"),
        ({"inputs_embeds": torch.ones(1, 2, 64), "start_layer": 4}, "start_layer=4.*num_hidden_layers=3"),
        ({"inputs_embeds": torch.ones(1, 2, 64), "start_layer": 2, "stop_layer": 1}, "start_layer=2, stop_layer=1"),
        ({"input_ids": TOKENS, "stop_layer": -1}, "stop_layer=-1"),
        (
            {"input_ids": TOKENS, "capture_layers": [0, 3]},
            r"capture_layers=.*\[3\].*0\.\.2",
        ),
        (
            {"input_ids": TOKENS, "stop_layer": 2, "capture_scores": [2]},
            r"capture_scores=.*\[2\].*0\.\.1",
        ),
    ],
)
def test_invalid_inputs_are_errors(family, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(build(family), **inputs)


@families
def test_multiple_choice_without_inputs_is_an_error(family):
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        run(build(family, "ForMultipleChoice"))
