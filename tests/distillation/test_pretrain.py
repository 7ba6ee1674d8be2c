"""Pre-training, the trainer without a teacher: the losses it logs, its evaluation, and its optimizers."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import nn

from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.training import PreTrainingArguments
from mobilebert_hf.training.optimizer import Lamb

from ..helpers import fixed_masks, moved, pad, pretraining_model, snapshot, training_arguments, training_logs


@pytest.fixture
def make_trainer(tmp_path, tiny_examples, tiny_tokenizer):
    def make(family="IBBert", **arguments):
        return DistillationTrainer(
            pretraining_model(family, tiny_tokenizer),
            None,
            training_arguments(PreTrainingArguments, tmp_path, **arguments),
            train_dataset=tiny_examples["train"],
            eval_dataset=tiny_examples["validation"],
            data_collator=PretrainingCollator(tiny_tokenizer),
        )

    return make


@pytest.mark.parametrize(("family", "use_lamb"), [("IBBert", False), ("MobileBert", True)])
def test_the_loss_falls_and_its_terms_add_up_to_it(make_trainer, family, use_lamb):
    trainer = make_trainer(family, max_steps=40, use_lamb=use_lamb)
    trainer.train()
    logs = training_logs(trainer)
    assert len(logs) == 40
    for line in logs:
        assert line["masked_lm_loss"] + line["next_sentence_loss"] == pytest.approx(line["loss"], abs=1e-3)
    losses = [line["masked_lm_loss"] for line in logs]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5


def test_a_log_line_shows_the_means_since_the_last_one(make_trainer):
    each = make_trainer(max_steps=6, gradient_accumulation_steps=2)
    each.train()
    sparse = make_trainer(max_steps=6, gradient_accumulation_steps=2, logging_steps=3)
    sparse.train()
    for index, line in enumerate(training_logs(sparse)):
        lines = training_logs(each)[3 * index : 3 * index + 3]
        for name in ("loss", "masked_lm_loss", "next_sentence_loss"):
            assert line[name] == pytest.approx(sum(one[name] for one in lines) / 3, rel=1e-5)


@torch.no_grad()
def independent_metrics(model, rows):
    """Each example alone and unpadded, all logits, then plain sums over the whole set."""
    model.set_attn_implementation("eager")
    token_losses, sentence_losses = [], []
    predicted, expected, sentences, sentence_labels = [], [], [], []
    for row in rows:
        outputs = model(**{name: row[name][None] for name in ("input_ids", "attention_mask", "token_type_ids")})
        for logits, label in zip(outputs.prediction_logits[0], row["labels"].tolist(), strict=True):
            if label != -100:
                token_losses.append(math.log(logits.double().exp().sum()) - logits[label].item())
                predicted.append(logits.argmax().item())
                expected.append(label)
        logits, label = outputs.seq_relationship_logits[0].double(), row["next_sentence_label"].item()
        sentence_losses.append(math.log(logits.exp().sum()) - logits[label].item())
        sentences.append(logits.argmax().item())
        sentence_labels.append(label)
    masked_lm_loss = sum(token_losses) / len(token_losses)
    next_sentence_loss = sum(sentence_losses) / len(sentence_losses)
    return {
        "eval_loss": masked_lm_loss + next_sentence_loss,
        "eval_masked_lm_loss": masked_lm_loss,
        "eval_masked_lm_accuracy": accuracy_score(expected, predicted),
        "eval_next_sentence_loss": next_sentence_loss,
        "eval_next_sentence_accuracy": accuracy_score(sentence_labels, sentences),
    }


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_evaluation_equals_an_independent_one_at_any_batch_size(tmp_path, tiny_examples, tiny_tokenizer, batch_size):
    model = pretraining_model("IBBert", tiny_tokenizer)
    rows = fixed_masks(tiny_examples["validation"], tiny_tokenizer)
    arguments = training_arguments(PreTrainingArguments, tmp_path, per_device_eval_batch_size=batch_size)
    metrics = DistillationTrainer(model, None, arguments, eval_dataset=rows, data_collator=pad).evaluate()
    expected = independent_metrics(model, rows)
    assert len({len(row["input_ids"]) for row in rows}) > 1, "without padding this shows little"
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_evaluation_predicts_the_same_tokens_every_time(make_trainer):
    trainer = make_trainer()
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_masks_are_new_in_every_epoch_and_the_same_in_every_evaluation(make_trainer):
    trainer = make_trainer(num_train_epochs=3, max_steps=-1, eval_strategy="epoch")
    collate, seen = trainer.data_collator, defaultdict(set)

    class Spy:
        def __setattr__(self, name, value):
            setattr(collate, name, value)

        epoch = property(lambda self: collate.epoch)

        def __call__(self, examples):
            batch = collate(examples)
            for example, labels in zip(examples, batch["labels"], strict=True):
                predicted = tuple((labels != -100).nonzero().flatten().tolist())
                seen[tuple(example["input_ids"])].add(predicted)
            return batch

    trainer.data_collator = Spy()
    trainer.train()
    trained = {tuple(row["input_ids"]) for row in trainer.train_dataset}
    held_out = {tuple(row["input_ids"]) for row in trainer.eval_dataset} - trained
    assert {len(masks) for text, masks in seen.items() if text in held_out} == {1}
    assert np.mean([len(masks) for text, masks in seen.items() if text not in held_out]) > 2.5


@pytest.mark.parametrize("save_steps", [4, 7])
def test_a_resumed_run_ends_with_the_same_weights(make_trainer, tmp_path, save_steps):
    """The network has dropout, and an epoch has 5 steps."""
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": save_steps, "per_device_train_batch_size": 64}
    whole = make_trainer(**options)
    whole.train()
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{save_steps}"))
    assert not moved(snapshot(whole.model), snapshot(resumed.model))


def test_lamb_gets_its_groups_and_rates(make_trainer):
    optimizer = make_trainer(use_lamb=True, weight_decay=0.02, learning_rate=0.5, adam_beta2=0.9).create_optimizer()
    assert isinstance(optimizer, Lamb)
    assert {group["name"] for group in optimizer.param_groups} == {
        "embeddings", "layer_0", "layer_1", "layer_2", "heads",
    }  # fmt: skip
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.9, 0.9), 1e-8)
        assert group["adam"] is (group["weight_decay"] == 0.0)


@pytest.mark.parametrize("use_lamb", [False, True])
def test_everything_decays_except_norms_and_biases(make_trainer, use_lamb):
    trainer = make_trainer(use_lamb=use_lamb, weight_decay=0.02)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW) is not use_lamb
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    tables = {id(module.weight) for module in trainer.model.modules() if isinstance(module, nn.Linear | nn.Embedding)}
    for name, parameter in trainer.model.named_parameters():
        assert decay[id(parameter)] == (0.02 if id(parameter) in tables else 0.0), name
