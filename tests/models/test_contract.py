"""What the networks promise beyond stock: captures, padding, resizing, precision, errors. Both families."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mobilebert_hf import models

from .helpers import (
    FAMILIES,
    HEADS,
    VOCAB,
    assert_close,
    assert_same_outputs,
    build,
    make_batch,
    make_labels,
    relative_error,
    run,
)

families = pytest.mark.parametrize("family", FAMILIES)
heads = pytest.mark.parametrize("head", HEADS)


@pytest.fixture
def kernel_calls():
    """The modules that called the sdpa kernel."""
    calls = []

    def spy(module, *args, **kwargs):
        calls.append(module)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("sdpa", spy)
    yield calls
    AttentionInterface.register("sdpa", sdpa_attention_forward)


def at_real_tokens(output, mask):
    """The tensors of `output`, of those per token only the real tokens'."""
    return {name: x[mask.bool()] if x.shape[:2] == mask.shape else x for name, x in output.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Attention kernels, hidden states, captures
# ---------------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("kernel", ["eager", "flex_attention"])
def test_kernels_agree(family, kernel):
    model, batch = build(family), make_batch()
    expected = run(model, **batch)
    model.set_attn_implementation(kernel)
    with torch.compiler.set_stance("force_eager"):  # flex_attention compiles itself, which takes long
        assert_same_outputs(run(model, **batch), expected)


@families
def test_attentions_are_probabilities_under_every_kernel(family):
    model, batch = build(family), make_batch()
    assert model.config._attn_implementation == "sdpa"
    output = run(model, **batch, output_attentions=True)
    assert len(output.attentions) == 3
    hidden_keys = batch["attention_mask"][:, None, None, :] == 0
    for probabilities in output.attentions:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 4, 12))
        assert (probabilities.masked_select(hidden_keys) == 0).all()
    model.set_attn_implementation("eager")
    assert_same_outputs(run(model, **batch, output_attentions=True), output)


@families
@pytest.mark.parametrize(("selection", "kept"), [(1, [1]), ([0, 2], [0, 2]), (-1, [3]), (True, [0, 1, 2, 3])])
def test_hidden_states_can_be_selected(family, selection, kept):
    model, batch = build(family), make_batch()
    every = run(model, **batch, output_hidden_states=True).hidden_states
    some = run(model, **batch, output_hidden_states=selection).hidden_states
    assert [index for index, state in enumerate(some) if state is not None] == kept
    assert all(torch.equal(some[index], every[index]) for index in kept)


@families
def test_layers_can_run_in_two_parts(family):
    model, batch = build(family), make_batch()
    whole = run(model, **batch)
    first = run(model, **batch, stop_layer=2, capture_layers=[1])
    assert first.pooler_output is None
    assert torch.equal(first.last_hidden_state, first.layer_outputs[0])
    mask = batch["attention_mask"]
    second = run(model, inputs_embeds=first.layer_outputs[0], attention_mask=mask, start_layer=2)
    assert_same_outputs(second, whole, tolerance=0)


@families
def test_no_layer_at_all_gives_the_embeddings(family):
    model, batch = build(family), make_batch()
    embeddings = run(model, **batch, stop_layer=0).last_hidden_state
    assert torch.equal(embeddings, run(model, **batch, output_hidden_states=True).hidden_states[0])


@families
def test_captured_layers_are_the_hidden_states(family):
    output = run(build(family), **make_batch(), capture_layers=range(3), output_hidden_states=True)
    assert all(torch.equal(a, b) for a, b in zip(output.layer_outputs, output.hidden_states[1:], strict=True))


@families
def test_captured_scores_give_the_attentions(family):
    model, batch = build(family), make_batch()
    output = run(model, **batch, capture_scores=[0, 2], output_attentions=True)
    mask = batch["attention_mask"][:, None, None, :]
    for layer, scores in zip((0, 2), output.attention_scores, strict=True):
        manual = torch.softmax(scores + (1.0 - mask) * torch.finfo(scores.dtype).min, dim=-1)
        torch.testing.assert_close(manual, output.attentions[layer])


@families
def test_only_captured_layers_leave_the_kernel(family, kernel_calls):
    model, batch = build(family), make_batch()
    plain = run(model, **batch)
    assert len(kernel_calls) == 3
    kernel_calls.clear()
    captured = run(model, **batch, capture_scores=[1])
    assert kernel_calls == [model.encoder.layer[index].attention.self for index in (0, 2)]
    assert captured.attention_scores[0].shape == (3, 4, 12, 12)
    assert_close(captured.last_hidden_state, plain.last_hidden_state)


@families
def test_four_dimensional_masks_are_taken(family):
    model, batch = build(family, mask_padding=False), make_batch()
    expected = run(model, **batch)
    visible = batch["attention_mask"][:, None, None, :].expand(-1, 1, 12, -1)
    for mask in (visible.bool(), (1.0 - visible) * torch.finfo(torch.float32).min):
        inputs = {**batch, "attention_mask": mask}
        assert_same_outputs(run(model, **inputs), expected)
        captured = run(model, **inputs, capture_scores=[1])
        assert_close(captured.last_hidden_state, expected.last_hidden_state)


@families
def test_embeddings_given_equal_tokens_given(family):
    model, batch = build(family), make_batch()
    embeds = model.get_input_embeddings()(batch["input_ids"]).detach()
    given = {**batch, "input_ids": None, "inputs_embeds": embeds}
    assert_same_outputs(run(model, **given), run(model, **batch), tolerance=0)


# ---------------------------------------------------------------------------------------------------------------------
# Training, compilation, precision
# ---------------------------------------------------------------------------------------------------------------------


def gradients(model, inputs):
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@families
@pytest.mark.parametrize("captures", [{}, {"capture_layers": [0, 1, 2], "capture_scores": [1]}])
def test_gradient_checkpointing_changes_no_gradient(family, captures):
    batch = make_batch()
    model = build(family, "ForPreTraining", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs = {**batch, **make_labels("ForPreTraining", batch), **captures}
    plain = gradients(model, inputs)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, inputs)
    assert plain.keys() == checkpointed.keys()
    torch.testing.assert_close(checkpointed, plain)


@families
@heads
def test_every_head_trains(family, head):
    model, batch = build(family, head).train(), make_batch(head=head)
    output = model(**batch, **make_labels(head, batch))
    (output.pooler_output.sum() if head == "Model" else output.loss).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("regression", torch.rand(3, 2)),
        ("single_label_classification", torch.tensor([0, 1, 1])),
        ("multi_label_classification", torch.ones(3, 2)),
    ],
)
@families
def test_problem_types(family, problem_type, labels):
    model = build(family, "ForSequenceClassification", problem_type=problem_type)
    assert torch.isfinite(run(model, **make_batch(), labels=labels).loss)


@families
def test_compiles_in_one_graph_with_captures(family):
    model, batch = build(family), make_batch()
    arguments = {**batch, "capture_layers": (0, 2), "capture_scores": (1,), "stop_layer": 3}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same_outputs(run(compiled, **arguments), run(model, **arguments))


@heads
def test_every_head_compiles_in_one_graph(head):
    model, batch = build(head=head, num_hidden_layers=1), make_batch(head=head)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same_outputs(run(compiled, **batch), run(model, **batch))


@families
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_stays_close(family, dtype, tolerance):
    model, batch = build(family, "ForMaskedLM"), make_batch()
    expected = run(model, **batch).logits
    logits = run(copy.deepcopy(model).to(dtype), **batch, output_attentions=True).logits
    assert logits.dtype == dtype
    assert relative_error(logits.float(), expected) < tolerance


@families
def test_float16_autocast_stays_close(family):
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
def test_float16_overflow_is_an_error_that_names_the_way_out(family):
    model = explode(build(family)).half()
    with pytest.raises(FloatingPointError, match="bfloat16"):
        run(model, **make_batch())


@families
def test_float16_overflow_is_an_error_under_autocast(family):
    model = explode(build(family))
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(FloatingPointError, match="bfloat16"):
        run(model, **make_batch())


@families
def test_bfloat16_takes_what_overflows_float16(family):
    assert torch.isfinite(run(explode(build(family)).bfloat16(), **make_batch()).last_hidden_state).all()


# ---------------------------------------------------------------------------------------------------------------------
# Padding
# ---------------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("head", [head for head in HEADS if head != "ForMultipleChoice"])
@pytest.mark.parametrize("pad_row", [False, True])
def test_a_text_alone_and_in_a_padded_batch_gives_the_same(family, head, pad_row):
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
def test_without_the_padding_mask_a_pad_embedding_is_seen(family):
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
def test_pretraining_loss_is_the_sum_over_the_labels_given(family):
    model, batch = build(family, "ForPreTraining"), make_batch()
    labels = make_labels("ForPreTraining", batch)
    masked_lm, next_sentence = (run(model, **batch, **{name: value}).loss for name, value in labels.items())
    assert_close(run(model, **batch, **labels).loss, masked_lm + next_sentence)
    assert run(model, **batch).loss is None


@families
def test_pretraining_model_cut_short_has_captures_and_no_logits(family):
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
        ({"input_ids": TOKENS, "start_layer": 1}, "start_layer=1 needs inputs_embeds"),
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
def test_impossible_inputs_say_what_is_wrong(family, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(build(family), **inputs)


@families
def test_choices_need_inputs(family):
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        run(build(family, "ForMultipleChoice"))
