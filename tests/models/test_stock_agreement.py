"""A checkpoint gives the same outputs in this package and in stock transformers."""

import pytest
import torch
import transformers
from transformers.models.mobilebert import modeling_mobilebert as stock

from mobilebert_hf import PRESETS, MobileBertConfig, models

from .helpers import (
    HEADS,
    STUDENT,
    TEACHER,
    assert_close,
    assert_same_outputs,
    build,
    make_batch,
    make_labels,
    relative_error,
    run,
    shake,
    teacher_config,
)

VARIANTS = {
    "student": PRESETS["mobilebert"],
    "tiny": PRESETS["mobilebert-tiny"],
    # Stock transformers creates two of the LayerNorms with torch's default epsilon, 1e-5, not the configuration's.
    "noopt": {**PRESETS["mobilebert-noopt"], "layer_norm_eps": 1e-5},
    "pooler": {"classifier_activation": True},
    "plain": {"use_bottleneck": False, "trigram_input": False, "classifier_activation": False},
}


def build_stock(head, **fields):
    torch.manual_seed(0)
    model = getattr(stock, f"MobileBert{head}")(transformers.MobileBertConfig(**{**STUDENT, **fields}))
    return shake(model, pad_row=True).eval()


def names_and_shapes(model):
    named, state = dict(model.named_parameters()), model.state_dict()
    return [{name: x.shape for name, x in tensors.items()} for tensors in (named, state)]


def reload(model, model_class, folder):
    """Saves `model` and loads it as `model_class`, without missing or unexpected weights."""
    model.save_pretrained(folder)
    loaded, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert names_and_shapes(loaded) == names_and_shapes(model)
    return loaded.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_ours_in_stock(tmp_path, head, variant):
    ours = build(head=head, **VARIANTS[variant])
    theirs = reload(ours, getattr(stock, f"MobileBert{head}"), tmp_path)
    inputs = {**make_batch(head=head), "output_hidden_states": True}
    assert_same_outputs(run(theirs, **inputs), run(ours, **inputs))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_stock_in_ours_with_a_pad_embedding(tmp_path, head, variant):
    theirs = build_stock(head, **VARIANTS[variant])
    ours = reload(theirs, getattr(models, f"MobileBert{head}"), tmp_path)
    assert ours.config.mask_padding is False
    inputs = {**make_batch(head=head), "output_hidden_states": True}
    assert_same_outputs(run(ours, **inputs), run(theirs, **inputs))


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_probabilities(tmp_path, variant):
    ours = build(**VARIANTS[variant])
    theirs = reload(ours, stock.MobileBertModel, tmp_path)
    theirs.set_attn_implementation("eager")
    inputs = {**make_batch(), "output_attentions": True}
    assert_same_outputs(run(ours, **inputs), run(theirs, **inputs))


@pytest.mark.parametrize("head", [head for head in HEADS if head != "Model"])
def test_losses(tmp_path, head):
    theirs = build_stock(head)
    ours = reload(theirs, getattr(models, f"MobileBert{head}"), tmp_path)
    batch = make_batch(head=head)
    inputs = {**batch, **make_labels(head, batch)}
    assert_close(run(ours, **inputs).loss, run(theirs, **inputs).loss)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("regression", 1, torch.tensor([0.5, -1.0, 2.0])),
        ("single_label_classification", 3, torch.tensor([0, 2, 1])),
        ("multi_label_classification", 3, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
    ],
)
def test_problem_types(tmp_path, problem_type, num_labels, labels, declared):
    fields = {"num_labels": num_labels, **({"problem_type": problem_type} if declared else {})}
    theirs = build_stock("ForSequenceClassification", **fields)
    ours = reload(theirs, models.MobileBertForSequenceClassification, tmp_path)
    inputs = {**make_batch(), "labels": labels}
    assert_close(run(ours, **inputs).loss, run(theirs, **inputs).loss)
    assert ours.config.problem_type == theirs.config.problem_type == problem_type


def test_answers_outside_the_sequence_give_the_stock_loss(tmp_path):
    theirs = build_stock("ForQuestionAnswering")
    ours = reload(theirs, models.MobileBertForQuestionAnswering, tmp_path)
    inputs = {
        **make_batch(),
        "start_positions": torch.tensor([1, 50, 3]),
        "end_positions": torch.tensor([[2], [60], [4]]),
    }
    assert_close(run(ours, **inputs).loss, run(theirs, **inputs).loss)


def test_mask_padding_changes_the_outputs_of_a_stock_checkpoint(tmp_path):
    theirs = build_stock("Model")
    theirs.save_pretrained(tmp_path)
    ours = models.MobileBertModel.from_pretrained(tmp_path, mask_padding=True).eval()
    batch = make_batch()
    assert relative_error(run(ours, **batch).last_hidden_state, run(theirs, **batch).last_hidden_state) > 1e-3


def test_the_teacher_has_the_students_parameter_names():
    with torch.device("meta"):
        student = models.MobileBertForPreTraining(MobileBertConfig(**TEACHER, key_query_shared_bottleneck=True))
        same_shape = models.IBBertForPreTraining(
            teacher_config(key_query_shared_bottleneck=True, num_feedforward_networks=4)
        )
        teacher = models.IBBertForPreTraining(teacher_config())
    names = set(student.state_dict())
    assert set(same_shape.state_dict()) == names
    turned_off = {name for name in names if ".ffn." in name or ".bottleneck.attention." in name}
    assert set(teacher.state_dict()) == names - turned_off
