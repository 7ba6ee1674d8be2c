"""What a student takes over from its teacher, against the original's list."""

import json

import numpy as np
import pytest
import torch

from mobilebert_hf import IBBertConfig, MobileBertConfig
from mobilebert_hf.distillation.initialization import MATCHED_FIELDS, check_match, initialize_from_teacher

from ..helpers import by_our_names, moved, snapshot
from ..models.helpers import FIXTURES, build, student_config, teacher_config

ORIGINAL = json.loads((FIXTURES / "init_map.json").read_text())
NORM = {"mobilebert.embeddings.LayerNorm.weight", "mobilebert.embeddings.LayerNorm.bias"}
STUDENTS = {"student": {"normalization_type": "no_norm"}, "student_noopt": {"normalization_type": "layer_norm"}}


def our_names(original_names):
    return set(by_our_names({name: np.zeros((1, 1)) for name in original_names}))


@pytest.fixture
def teacher():
    return build("IBBert", "ForPreTraining")


def make_student(**fields):
    return build("MobileBert", "ForPreTraining", **fields)


@pytest.mark.parametrize("kind", STUDENTS)
def test_the_same_is_copied_as_in_the_original(teacher, kind):
    student = make_student(**STUDENTS[kind])
    before = snapshot(student)
    copied = initialize_from_teacher(student, teacher)
    assert len(copied) == len(set(copied))
    assert set(copied) == our_names(ORIGINAL[kind]["student_initialised_from_teacher_checkpoint"])
    assert not set(copied) & our_names(ORIGINAL[kind]["student_not_initialised_outside_encoder"])
    changed = moved(before, snapshot(student))
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert changed == set(copied) | tied, "nothing else may change"
    source = teacher.state_dict()
    assert all(torch.equal(student.state_dict()[name], source[name]) for name in changed)


@pytest.mark.parametrize("student_norm", ["no_norm", "layer_norm"])
@pytest.mark.parametrize("teacher_norm", ["no_norm", "layer_norm"])
def test_the_embedding_norm_is_copied_between_equal_kinds_only(student_norm, teacher_norm):
    teacher = build("IBBert", "ForPreTraining", normalization_type=teacher_norm)
    copied = initialize_from_teacher(make_student(normalization_type=student_norm), teacher)
    assert set(copied) & NORM == (NORM if student_norm == teacher_norm else set())


@pytest.mark.parametrize("mask_padding", [True, False])
def test_the_padding_row_becomes_zero_where_padding_is_masked(mask_padding):
    teacher = build("IBBert", "ForPreTraining", pad_row=True, mask_padding=False)
    student = make_student(mask_padding=mask_padding)
    initialize_from_teacher(student, teacher)
    table, source = (network.get_input_embeddings().weight for network in (student, teacher))
    assert source[0].any()
    assert torch.equal(table[0], torch.zeros_like(table[0]) if mask_padding else source[0])
    assert torch.equal(table[1:], source[1:])


def test_a_teacher_of_another_dtype_is_converted(teacher):
    student = make_student()
    initialize_from_teacher(student, teacher.to(torch.bfloat16))
    weight = student.cls.predictions.dense.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, teacher.cls.predictions.dense.weight.float())


DIFFERENT = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "embedding_size": 8,
    "vocab_size": 98,
    "max_position_embeddings": 39,
    "type_vocab_size": 3,
    "trigram_input": False,
}


def test_every_matched_field_is_tried():
    assert DIFFERENT.keys() == set(MATCHED_FIELDS)


@pytest.mark.parametrize("field", MATCHED_FIELDS)
def test_a_field_that_differs_is_named_with_both_values(field):
    teacher = teacher_config()
    with pytest.raises(ValueError, match="do not match") as error:
        check_match(student_config(**{field: DIFFERENT[field]}), teacher)
    assert f"({field}: student {DIFFERENT[field]}, teacher {getattr(teacher, field)})" in str(error.value)


def test_all_fields_that_differ_are_named_at_once(teacher):
    with pytest.raises(ValueError, match=r"num_hidden_layers: student 2, teacher 3; vocab_size: student 98, teach"):
        initialize_from_teacher(make_student(num_hidden_layers=2, vocab_size=98), teacher)


def test_the_papers_pair_matches():
    check_match(MobileBertConfig.from_preset("mobilebert"), IBBertConfig.from_preset("ib-bert-large"))
