"""What a student knows before training, against what its teacher computes."""

import pytest
import torch

from mobilebert_hf import MobileBertForMaskedLM, MobileBertModel
from mobilebert_hf.distillation import closed_form
from mobilebert_hf.distillation.closed_form import (
    initialize_embeddings,
    initialize_masked_lm_head,
    masked_lm_head,
)
from mobilebert_hf.distillation.layer_fit import fit_layers
from mobilebert_hf.distillation.networks import Needs
from mobilebert_hf.distillation.shapes import student_shape
from mobilebert_hf.distillation.teachers import EncoderTeacher

from .encoders import FAMILIES, build, random_batch

COUNTS = torch.ones(100)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_with_full_rank_are_nearly_the_teachers(family):
    """What is lost with full rank is what a sum of tables cannot tell of a normalised sum."""
    teacher = build(family)
    student = MobileBertModel(student_shape(teacher, "tiny", overrides={"embedding_size": 32}).config)
    assert initialize_embeddings(student, teacher, COUNTS) == pytest.approx(1, abs=1e-6)
    batch = random_batch()
    real = batch["attention_mask"].bool()
    expected = EncoderTeacher(teacher)(batch, Needs(depth=1, features=(-1,))).features[-1]
    found = student(**batch, stop_layer=0).last_hidden_state
    similarity = torch.nn.functional.cosine_similarity(found[real], expected[real], dim=-1)
    assert similarity.mean() > (0.999 if family == "ModernBert" else 0.98)


def test_the_narrow_table_keeps_what_is_reported():
    teacher = build("Bert")
    student = MobileBertModel(student_shape(teacher, "tiny", overrides={"embedding_size": 12}).config)
    kept = initialize_embeddings(student, teacher, COUNTS)
    full = MobileBertModel(student_shape(teacher, "tiny", overrides={"embedding_size": 32}).config)
    initialize_embeddings(full, teacher, COUNTS)

    def words(model):
        table, rank = model.embeddings.word_embeddings.weight[1:], model.config.embedding_size
        rows = table @ model.embeddings.embedding_transformation.weight[:, rank : 2 * rank].T
        return rows - rows.mean(0)

    lost = (words(full) - words(student)).square().sum() / words(full).square().sum()
    assert kept == pytest.approx(1 - float(lost), abs=0.02)
    assert 0.4 < kept < 0.9
    assert not student.embeddings.word_embeddings.weight[0].any(), "padding stays invisible"


def test_frequent_words_are_kept_best():
    teacher = build("Bert")
    counts = torch.ones(100)
    counts[5:20] = 1000.0
    student = MobileBertModel(student_shape(teacher, "tiny", overrides={"embedding_size": 12}).config)
    assert initialize_embeddings(student, teacher, counts) > initialize_embeddings(student, teacher, COUNTS) + 0.1


@torch.no_grad()
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_the_head_gives_the_teachers_logits(family):
    teacher = build(family, "ForMaskedLM")
    # An embedding table with some structure, as trained ones have.
    table = teacher.get_input_embeddings().weight
    table.copy_(torch.randn(100, 8) @ torch.randn(8, table.shape[1]) / 8 + 0.02 * torch.randn_like(table))
    student = MobileBertForMaskedLM(student_shape(teacher, "tiny", overrides={"embedding_size": 8}).config)
    initialize_embeddings(student.mobilebert, teacher, COUNTS)
    before = student.mobilebert(**random_batch(), stop_layer=0).last_hidden_state
    features = torch.randn(600, 32)
    explained = initialize_masked_lm_head(student, teacher, features)
    assert explained > 0.45
    torch.testing.assert_close(student.mobilebert(**random_batch(), stop_layer=0).last_hidden_state, before)
    fresh = torch.randn(200, 32)
    hits = student.cls.predictions(fresh).argmax(-1) == masked_lm_head(teacher)(fresh).argmax(-1)
    assert hits.float().mean() > 0.4, "on features that were not fitted"


@torch.no_grad()
def test_layers_that_are_fitted_come_near_the_teacher():
    teacher = build("Bert")
    shape = student_shape(teacher, "tiny", overrides={"intra_bottleneck_size": 16, "embedding_size": 32})
    student = MobileBertModel(shape.config, add_pooling_layer=False).eval()
    initialize_embeddings(student, teacher, COUNTS)
    batch, held_out = random_batch(rows=300), random_batch(rows=40, length=10)
    real = batch["attention_mask"].bool()

    def similarity(batch):
        mask = batch["attention_mask"].bool()
        expected = EncoderTeacher(teacher)(batch, Needs(features=(0, 1, 2))).features.values()
        found = student(**batch, capture_layers=(0, 1, 2)).layer_outputs
        pairs = zip(found, expected, strict=True)
        return [float(torch.nn.functional.cosine_similarity(f[mask], e[mask], dim=-1).mean()) for f, e in pairs]

    before = similarity(held_out)
    targets = [[layer] for layer in EncoderTeacher(teacher)(batch, Needs(features=(0, 1, 2))).features.values()]
    states = [student(**batch, stop_layer=0).last_hidden_state]
    reported = fit_layers(student, states, targets, [real])
    assert similarity(batch) == pytest.approx(reported, abs=1e-4), "the report is what the network then gives"
    assert all(after > was for after, was in zip(similarity(held_out), before, strict=True))
    assert min(similarity(held_out)) > 0.95


@torch.no_grad()
def test_the_head_is_fitted_to_few_logits_at_a_time(monkeypatch):
    """All logits of a vocabulary of 250,000 would take many gigabytes."""
    teacher = build("Bert", "ForMaskedLM")
    rows = []
    teacher.get_output_embeddings().register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
    features, heads = torch.randn(600, 32), []
    for chunk, most in ((2**24, 600), (2500, 25)):
        monkeypatch.setattr(closed_form, "CHUNK", chunk)
        rows.clear()
        torch.manual_seed(0)
        student = MobileBertForMaskedLM(student_shape(teacher, "tiny", overrides={"embedding_size": 8}).config)
        initialize_embeddings(student.mobilebert, teacher, COUNTS)
        explained = initialize_masked_lm_head(student, teacher, features)
        assert max(rows) == most
        heads.append((explained, student.cls.predictions(features)))
    assert heads[0][0] == pytest.approx(heads[1][0], abs=1e-4)
    torch.testing.assert_close(heads[0][1], heads[1][1], atol=1e-4, rtol=1e-3)
