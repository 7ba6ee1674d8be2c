"""What the trainer compares, against an independent computation, and what learns in a stage."""

import pytest
import torch
from torch._dynamo.utils import counters

from mobilebert_hf import MobileBertModel
from mobilebert_hf.distillation import DistillationArguments, DistillationTrainer, student_shape
from mobilebert_hf.distillation.teachers import EncoderTeacher

from ..helpers import AtEachStep, training_arguments
from .encoders import build, random_batch


@pytest.fixture
def make_trainer(tmp_path, tiny_tokenizer):
    def make(layers="all", output="pooled", callbacks=None, **arguments):
        network = build("Bert", initializer_range=0.2)
        shape = student_shape(network, "tiny", layers, {"embedding_size": 16})
        torch.manual_seed(0)
        student = MobileBertModel(shape.config, add_pooling_layer=False)
        batch = {**random_batch(), "labels": torch.full((8, 12), -100), "next_sentence_label": torch.full((8,), -100)}
        rows = [{name: values[index] for name, values in batch.items()} for index in range(8)]
        args = training_arguments(DistillationArguments, tmp_path, teacher_dtype="float32", **arguments)
        trainer = DistillationTrainer(
            student,
            EncoderTeacher(network, shape.mapping),
            args,
            args.build_objectives(output),
            train_dataset=rows,
            data_collator=lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]},
            callbacks=callbacks,
        )
        return trainer, batch

    return make


def normalized(states):
    return torch.nn.functional.layer_norm(states, states.shape[-1:], eps=1e-12)


def test_the_loss_is_that_of_layers_embeddings_and_pooled_outputs(make_trainer):
    weights = {"feature_map_weight": 3.0, "mean_weight": 0.0, "variance_weight": 0.0, "pooled_weight": 2.0}
    trainer, batch = make_trainer(layers="0,2", distillation_steps=2, **weights)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    loss = trainer.compute_loss(trainer.model, batch)
    teacher = trainer.teacher.model(**inputs, output_hidden_states=True).hidden_states
    student = trainer.model(**inputs, capture_layers=(-1, 0, 1)).layer_outputs
    real = inputs["attention_mask"].bool()
    maps = [
        (normalized(own) - normalized(teacher[index])).square().mean(-1)[real].mean()
        for own, index in zip(student, (0, 1, 3), strict=True)
    ]
    pooled = [
        torch.stack([states[row, : real[row].sum()].mean(0) for row in range(8)])
        for states in (student[-1], teacher[3])
    ]
    distance = 1 - torch.nn.functional.cosine_similarity(*pooled).mean()
    expected = 3.0 * sum(maps) / 2 + 2.0 * distance
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_in_a_parallel_stage_layers_read_the_teachers_features(make_trainer):
    trainer, batch = make_trainer(strategy="parallel", transfer_steps=4, distillation_steps=2)
    read = []
    for layer in trainer.model.encoder.layer:
        layer.register_forward_pre_hook(lambda layer, args: read.append(args[0]))
    loss = trainer.compute_loss(trainer.model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    teacher = trainer.teacher.model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    for states, expected in zip(read, teacher[:3], strict=True):
        torch.testing.assert_close(states[real], expected[real])
    loss.backward()
    assert trainer.model.embeddings.word_embeddings.weight.grad is not None, "embeddings learn by their own features"


def test_embeddings_can_be_frozen_in_transfer(make_trainer):
    seen = []
    callback = AtEachStep(lambda step: seen.append(trainer.model.embeddings.word_embeddings.weight.clone()))
    trainer, _ = make_trainer(
        strategy="joint", transfer_steps=4, distillation_steps=2, embedding_lr_scale=0.0, callbacks=[callback]
    )
    trainer.train()
    assert torch.equal(seen[0], seen[4])
    assert not torch.equal(seen[4], seen[6])


def test_networks_that_do_not_match_are_refused(make_trainer, tmp_path):
    trainer, _ = make_trainer()
    arguments = training_arguments(DistillationArguments, tmp_path)
    with pytest.raises(ValueError, match=r"hidden_size: student 32, teacher 64"):
        DistillationTrainer(trainer.model, EncoderTeacher(build("Bert", hidden_size=64)), arguments)
    with pytest.raises(ValueError, match=r"mapping=\(0, 1\) must name one of the teacher's 3 layers"):
        DistillationTrainer(trainer.model, EncoderTeacher(trainer.teacher.model, (0, 1)), arguments)


def test_more_layers_are_not_compiled_more_often(make_trainer):
    compiled = {"torch_compile_backend": "eager"}
    frames, losses = [], []
    for layers, options in (("0,0,1,1,2,2", {}), ("0,0,1,1,2,2", compiled), ("0,1", compiled)):
        torch.compiler.reset()
        counters.clear()
        trainer, batch = make_trainer(layers=layers, relation_weight=1.0, **options)
        losses.append(trainer.compute_loss(trainer.model, batch).item())
        frames.append(counters["frames"]["ok"])
    assert frames[0] == 0 < frames[1] == frames[2]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
