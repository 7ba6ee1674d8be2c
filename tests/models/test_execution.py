"""Attention kernels, captured tensors, ranges of layers, gradients and compilation of MobileBERT and IB-BERT."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .helpers import assert_close, assert_same_outputs, build, families, heads, make_batch, make_labels, run


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


# ---------------------------------------------------------------------------------------------------------------------
# Attention kernels, hidden states, captured tensors
# ---------------------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("kernel", ["eager", "flex_attention"])
def test_kernels_agree(family, kernel):
    model, batch = build(family), make_batch()
    expected = run(model, **batch)
    model.set_attn_implementation(kernel)
    with torch.compiler.set_stance("force_eager"):  # compiling flex_attention is slow
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
def test_stop_layer_0_gives_the_embeddings(family):
    model, batch = build(family), make_batch()
    embeddings = run(model, **batch, stop_layer=0).last_hidden_state
    assert torch.equal(embeddings, run(model, **batch, output_hidden_states=True).hidden_states[0])


@families
def test_captured_layers_are_the_hidden_states(family):
    output = run(build(family), **make_batch(), capture_layers=range(3), output_hidden_states=True)
    assert all(torch.equal(a, b) for a, b in zip(output.layer_outputs, output.hidden_states[1:], strict=True))


@families
def test_the_embeddings_can_be_captured(family):
    model, batch = build(family), make_batch()
    [embeddings, first] = run(model, **batch, capture_layers=(-1, 0)).layer_outputs
    assert torch.equal(embeddings, run(model, **batch, stop_layer=0).last_hidden_state)
    assert torch.equal(first, run(model, **batch, stop_layer=1).last_hidden_state)


@families
def test_layer_inputs_replace_the_outputs_of_previous_layers(family):
    model, batch = build(family), make_batch()
    given = {index: torch.randn(*batch["input_ids"].shape, model.config.hidden_size) for index in range(3)}
    outputs = run(model, **batch, capture_layers=range(3), layer_inputs=given).layer_outputs
    for index in (1, 2):  # inputs_embeds of layer 0 are word embeddings
        alone = run(
            model,
            inputs_embeds=given[index],
            attention_mask=batch["attention_mask"],
            start_layer=index,
            stop_layer=index + 1,
        )
        assert torch.equal(outputs[index], alone.last_hidden_state)


@families
def test_captured_scores_give_the_attentions(family):
    model, batch = build(family), make_batch()
    output = run(model, **batch, capture_scores=[0, 2], output_attentions=True)
    mask = batch["attention_mask"][:, None, None, :]
    for layer, scores in zip((0, 2), output.attention_scores, strict=True):
        manual = torch.softmax(scores + (1.0 - mask) * torch.finfo(scores.dtype).min, dim=-1)
        torch.testing.assert_close(manual, output.attentions[layer])


@families
def test_only_captured_layers_use_eager_attention(family, kernel_calls):
    model, batch = build(family), make_batch()
    plain = run(model, **batch)
    assert len(kernel_calls) == 3
    kernel_calls.clear()
    captured = run(model, **batch, capture_scores=[1])
    assert kernel_calls == [model.encoder.layer[index].attention.self for index in (0, 2)]
    assert captured.attention_scores[0].shape == (3, 4, 12, 12)
    assert_close(captured.last_hidden_state, plain.last_hidden_state)


@families
def test_four_dimensional_masks(family):
    model, batch = build(family, mask_padding=False), make_batch()
    expected = run(model, **batch)
    visible = batch["attention_mask"][:, None, None, :].expand(-1, 1, 12, -1)
    for mask in (visible.bool(), (1.0 - visible) * torch.finfo(torch.float32).min):
        inputs = {**batch, "attention_mask": mask}
        assert_same_outputs(run(model, **inputs), expected)
        captured = run(model, **inputs, capture_scores=[1])
        assert_close(captured.last_hidden_state, expected.last_hidden_state)


@families
def test_inputs_embeds_equal_input_ids(family):
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


def test_a_compiled_model_captures_other_layers_in_each_call():
    model = build("MobileBert")
    compiled = torch.compile(model, backend="eager")
    for depth in (1, 2, 3, 1):  # integers that change become symbolic
        arguments = {
            **make_batch(),
            "stop_layer": depth,
            "capture_layers": (depth - 1,),
            "capture_scores": (depth - 1,),
        }
        assert_same_outputs(run(compiled, **arguments), run(model, **arguments))
