"""Objectives: each with each kind of teacher, and one of one's own."""

import pytest
import torch

from mobilebert_hf import MobileBertModel
from mobilebert_hf.distillation import DistillationTrainer, EncoderTeacher, IBBertTeacher, student_shape
from mobilebert_hf.distillation.networks import Needs
from mobilebert_hf.distillation.objectives import (
    AttentionScores,
    FeatureMaps,
    MaskedLM,
    NextSentence,
    Objective,
    Relations,
)
from mobilebert_hf.distillation.sentence_objective import SentenceEmbeddings

from ..helpers import paper_arguments, pretraining_model
from .encoders import build, random_batch

OBJECTIVES = {
    "feature maps": (lambda: FeatureMaps(100.0, 5000.0, 5.0, embeddings=True), "layer_1/feature_map"),
    "attention": (lambda: AttentionScores(1.0), "layer_1/attention"),
    "relations": (lambda: Relations(1.0), "layer_1/relation"),
    "pooled": (lambda: SentenceEmbeddings(20.0, dimensions=(8, 4)), "pooled_distance"),
    "masked LM": (MaskedLM, "masked_lm_distillation"),
    "next sentence": (NextSentence, "next_sentence_loss"),
}


@pytest.fixture
def inputs():
    batch = random_batch(vocab=90)
    labels = torch.where(torch.arange(12) == 3, batch["input_ids"], -100)
    return {**batch, "labels": labels, "next_sentence_label": torch.arange(8) % 2}


@pytest.fixture
def make_trainer(tmp_path, tiny_tokenizer):
    def make(objectives, family="IBBert", student=None):
        student = student or pretraining_model("MobileBert", tiny_tokenizer)
        if family == "IBBert":
            teacher = IBBertTeacher(pretraining_model(family, tiny_tokenizer))
        else:
            heads = {"num_attention_heads": student.config.num_attention_heads}
            sizes = {"hidden_size": student.config.hidden_size, "vocab_size": len(tiny_tokenizer), **heads}
            teacher = EncoderTeacher(build(family, "ForMaskedLM", initializer_range=0.2, **sizes))
        arguments = paper_arguments(tmp_path, strategy="auxiliary", teacher_dtype="float32")
        return DistillationTrainer(student, teacher, arguments, objectives)

    return make


@pytest.mark.parametrize("family", ["IBBert", "Bert"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_works_with_every_teacher(make_trainer, inputs, name, family):
    make, term = OBJECTIVES[name]
    trainer = make_trainer([make()], family)
    loss = trainer.compute_loss(trainer.model, inputs)
    assert loss > 0
    assert trainer.loss_terms()[term] > 0
    loss.backward()
    assert any(parameter.grad is not None for parameter in trainer.model.parameters())
    _, sums, _ = trainer.prediction_step(trainer.model, inputs, False)
    assert sums.shape[0] == 8
    assert term in trainer._metric_names or term == "masked_lm_distillation"


def test_nothing_that_no_objective_needs_is_computed(make_trainer, inputs):
    trainer = make_trainer([FeatureMaps(1.0, 0.0, 0.0)])
    ran = []
    for network in (trainer.model, trainer.teacher.model):
        network.cls.predictions.register_forward_pre_hook(lambda *args: ran.append("head"))
    outputs = trainer.forward_networks(trainer.model, inputs, trainer.evaluation_stage)
    assert not ran
    assert not outputs.student.scores
    assert outputs.student.masked_lm_logits is None


class LastLayerNorm(Objective):
    """The distance of the last hidden states' norms; an objective of one's own."""

    def needs(self, stage):
        return Needs(last_hidden_state=True)

    def loss(self, outputs, normalizers):
        loss = (self.distances(outputs) * outputs.real).sum() / normalizers.tokens
        return loss, {"norm_distance": loss}

    def metrics(self, outputs):
        return {"norm_distance": ((self.distances(outputs) * outputs.real).sum(1), outputs.real.sum(1))}

    def evaluation_losses(self, num_layers):
        return ("norm_distance",)

    @staticmethod
    def distances(outputs):
        norms = [states.last_hidden_state.norm(dim=-1) for states in (outputs.student, outputs.teacher)]
        return (norms[0] - norms[1]).abs()


@pytest.mark.parametrize("family", ["IBBert", "Bert"])
def test_an_objective_of_ones_own_is_a_class(make_trainer, inputs, family):
    trainer = make_trainer([LastLayerNorm()], family)
    loss = trainer.compute_loss(trainer.model, inputs)
    evaluated, _, _ = trainer.prediction_step(trainer.model, inputs, False)
    assert loss.item() == pytest.approx(evaluated.item(), rel=1e-5)
    assert trainer.loss_terms()["norm_distance"] == loss


@pytest.mark.parametrize("objective", [MaskedLM, NextSentence])
def test_a_student_without_the_head_is_refused(make_trainer, tiny_tokenizer, objective):
    shape = student_shape(build("Bert", vocab_size=len(tiny_tokenizer)), "tiny", overrides={"embedding_size": 16})
    student = MobileBertModel(shape.config, add_pooling_layer=False)
    with pytest.raises(ValueError, match=f"MobileBertModel has no .* head, which the objective {objective.__name__}"):
        make_trainer([objective()], "Bert", student)
