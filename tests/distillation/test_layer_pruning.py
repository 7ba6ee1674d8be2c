"""Pruned copies of a teacher's layers, before any training."""

import pytest
import torch

from mobilebert_hf import MobileBertModel
from mobilebert_hf.distillation import EncoderTeacher, student_shape
from mobilebert_hf.distillation.closed_form import initialize_embeddings
from mobilebert_hf.distillation.layer_pruning import prune_layers

from .encoders import build, random_batch

COUNTS = torch.ones(100, dtype=torch.long)


def prune(teacher, batch, layers="all", **overrides):
    shape = student_shape(teacher, "pruned", layers, {"embedding_size": 32, **overrides})
    student = MobileBertModel(shape.config, add_pooling_layer=False).eval()
    initialize_embeddings(student, teacher, COUNTS)
    return student, prune_layers(student, EncoderTeacher(teacher, shape.mapping), [batch])


def similarity(student, teacher, batch):
    real = batch["attention_mask"].bool()
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    outputs = (network(**given).last_hidden_state[real] for network in (student, teacher))
    return float(torch.nn.functional.cosine_similarity(*outputs, dim=-1).mean())


@torch.no_grad()
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Camembert", "XLMRoberta"])
def test_nothing_is_lost_where_nothing_is_pruned(family):
    teacher, batch = build(family, initializer_range=0.2), random_batch(rows=200)
    student, reported = prune(teacher, batch, intermediate_size=64)
    assert similarity(student, teacher, random_batch(rows=20, length=9)) > 0.999
    assert min(reported) > 0.999


@torch.no_grad()
def test_what_is_pruned_is_replaced_as_far_as_possible():
    teacher, batch = build("Bert", initializer_range=0.2, num_hidden_layers=4), random_batch(rows=300)
    held_out = random_batch(rows=40, length=10)
    student, reported = prune(teacher, batch, "0,2,3", intermediate_size=16)
    assert similarity(student, teacher, batch) == pytest.approx(reported[-1], abs=1e-4), "what the network then gives"
    wider, _ = prune(teacher, batch, "0,1,2,3", intermediate_size=48)
    assert similarity(wider, teacher, held_out) > similarity(student, teacher, held_out) > 0.5


@torch.no_grad()
def test_a_wider_student_has_zeros_for_what_the_teacher_lacks():
    teacher, batch = build("Bert"), random_batch(rows=200)
    student, _ = prune(teacher, batch, intermediate_size=80)
    assert similarity(student, teacher, batch) > 0.999
    assert student.encoder.layer[0].intermediate.dense.weight[64:].abs().max() == 0
