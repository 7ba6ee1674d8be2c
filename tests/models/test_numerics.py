"""Half precision and padding do not change the outputs of MobileBERT and IB-BERT."""

import copy

import pytest
import torch

from mobilebert_hf import fold, models

from .helpers import (
    FAMILIES,
    HEADS,
    assert_close,
    assert_same_outputs,
    at_real_tokens,
    build,
    families,
    make_batch,
    make_labels,
    relative_error,
    run,
)


@families
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_is_close(family, dtype, tolerance):
    model, batch = build(family, "ForMaskedLM"), make_batch()
    expected = run(model, **batch).logits
    logits = run(copy.deepcopy(model).to(dtype), **batch, output_attentions=True).logits
    assert logits.dtype == dtype
    assert relative_error(logits.float(), expected) < tolerance


@families
def test_float16_autocast_is_close(family):
    model, batch = build(family, "ForMaskedLM"), make_batch()
    expected = run(model, **batch).logits
    with torch.autocast("cpu", dtype=torch.float16):
        logits = run(model, **batch).logits
    assert relative_error(logits.float(), expected) < 0.01


def explode(model):
    for layer in model.encoder.layer:
        layer.output.bottleneck.LayerNorm.weight.data.fill_(3e4)
        layer.bottleneck.input.dense.weight.data.fill_(3e4)
    return model


@families
def test_float16_overflow_is_an_error_that_recommends_bfloat16(family):
    model = explode(build(family)).half()
    with pytest.raises(FloatingPointError, match="bfloat16"):
        run(model, **make_batch())


@families
def test_float16_overflow_is_an_error_under_autocast(family):
    model = explode(build(family))
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(FloatingPointError, match="bfloat16"):
        run(model, **make_batch())


def test_float16_overflow_of_a_folded_model_is_an_error():
    folded = fold(explode(build("MobileBert"))).half()
    with pytest.raises(FloatingPointError, match="bfloat16"):
        run(folded, **make_batch())


@families
def test_bfloat16_does_not_overflow_where_float16_does(family):
    assert torch.isfinite(run(explode(build(family)).bfloat16(), **make_batch()).last_hidden_state).all()


# ---------------------------------------------------------------------------------------------------------------------
# Padding
# ---------------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("head", [head for head in HEADS if head != "ForMultipleChoice"])
@pytest.mark.parametrize("pad_row", [False, True])
def test_a_sequence_gives_the_same_output_alone_and_in_a_padded_batch(family, head, pad_row):
    model, batch = build(family, head, pad_row), make_batch()
    together = run(model, **batch)
    for row, length in enumerate((12, 9, 5)):
        text = {name: x[row : row + 1, :length] for name, x in batch.items()}
        alone = at_real_tokens(run(model, **text), text["attention_mask"])
        of_row = {name: x[row : row + 1] for name, x in together.items()}
        assert_same_outputs(at_real_tokens(of_row, batch["attention_mask"][row : row + 1]), alone)


@families
def test_padding_on_the_left_gives_the_same(family):
    model = build(family, pad_row=True)
    text = make_batch((9,))
    padded = {name: torch.nn.functional.pad(x, (3, 0)) for name, x in text.items()}
    positions = (torch.arange(12) - 3).clamp(min=0)[None]
    output = run(model, **padded, position_ids=positions).last_hidden_state[:, 3:]
    assert_close(output, run(model, **text).last_hidden_state)


@families
def test_choices_of_different_lengths(family):
    model = build(family, "ForMultipleChoice", pad_row=True)
    batch = make_batch(head="ForMultipleChoice")
    together = run(model, **batch).logits[0]
    for choice, length in enumerate((12, 9, 5)):
        alone = run(model, **{name: x[:, choice : choice + 1, :length] for name, x in batch.items()}).logits[0]
        assert_close(together[choice : choice + 1], alone)


@families
def test_without_mask_padding_the_pad_embedding_changes_outputs(family):
    model, batch = build(family, pad_row=True, mask_padding=False), make_batch()
    text = {name: x[2:3, :5] for name, x in batch.items()}
    together = run(model, **batch).last_hidden_state[2:3, :5]
    assert relative_error(together, run(model, **text).last_hidden_state) > 1e-3


@families
@pytest.mark.parametrize("prediction_mask", [True, False])
def test_pad_row_stays_zero_in_training(family, prediction_mask):
    torch.manual_seed(0)
    model = getattr(models, f"{family}ForPreTraining")(FAMILIES[family]()).train()
    table = model.get_input_embeddings().weight
    before = table.detach().clone()
    batch = make_batch()
    inputs = {**batch, **make_labels("ForPreTraining", batch)}
    if prediction_mask:
        inputs["prediction_mask"] = inputs["labels"] != -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert (table[0] == 0).all()
    assert (table[1:] != before[1:]).any(dim=1).all()
