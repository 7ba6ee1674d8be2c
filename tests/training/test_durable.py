"""What ends a run before it does harm, in the trainer's own process; see tests/test_recovery.py for real deaths."""

import os
import signal

import pytest
import torch

from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.training import EndAt, PreTrainingArguments, TrainingInterrupted
from mobilebert_hf.training.checkpoints import find_damage, last_good_checkpoint

from ..helpers import AtEachStep, moved, paper_arguments, pretraining_model, snapshot, training_arguments


@pytest.fixture
def make_trainer(tmp_path, tiny_examples, tiny_tokenizer):
    def make(distilled=False, callbacks=None, **arguments):
        options = {
            "train_dataset": tiny_examples["train"],
            "eval_dataset": tiny_examples["validation"],
            "data_collator": PretrainingCollator(tiny_tokenizer),
            "callbacks": callbacks,
        }
        if not distilled:
            arguments = {"max_steps": 8, **arguments}
            args = training_arguments(PreTrainingArguments, tmp_path, **arguments)
            return DistillationTrainer(pretraining_model("IBBert", tiny_tokenizer), None, args, **options)
        arguments = {"transfer_steps": 6, "distillation_steps": 2, "teacher_dtype": "float32", **arguments}
        student, teacher = (pretraining_model(family, tiny_tokenizer) for family in ("MobileBert", "IBBert"))
        return DistillationTrainer(student, teacher, paper_arguments(tmp_path, **arguments), **options)

    return make


def fails_at(make_trainer, step, spoil, **arguments):
    """Spoils something before a step; returns the error's text, after checking that this step changed nothing."""
    before = {}

    def at_each(number):
        if number == step:
            before.update(snapshot(trainer.model))
            spoil(trainer)

    trainer = make_trainer(callbacks=[AtEachStep(at_each)], save_strategy="steps", save_steps=2, **arguments)
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    assert trainer.state.global_step == step
    return str(error.value), moved(before, snapshot(trainer.model)), trainer


def test_a_loss_that_is_not_finite_is_named_with_step_stage_layer_and_objective(make_trainer, tmp_path):
    def spoil(trainer):
        with torch.no_grad():
            trainer.teacher.model.mobilebert.encoder.layer[1].attention.self.query.weight[0, 0] = float("nan")

    message, changed, _ = fails_at(make_trainer, 3, spoil, distilled=True)
    assert message.startswith("The loss is not finite: layer_1/feature_map = nan, ")
    assert "layer_1/attention = nan" in message
    assert 'in step 4 of 8 (stage "layer 1"). The step was not taken.' in message
    assert f"{tmp_path / 'checkpoint-2'}, is from before it" in message
    assert find_damage(tmp_path / "checkpoint-2") is None
    assert not changed


def test_a_gradient_that_is_not_finite_is_named(make_trainer):
    def spoil(trainer):
        weight = trainer.model.mobilebert.encoder.layer[1].intermediate.dense.weight
        weight.register_hook(lambda gradient: gradient * float("inf"))

    message, changed, _ = fails_at(make_trainer, 1, spoil)
    assert "The gradient of mobilebert.encoder.layer.1.intermediate.dense.weight is not finite" in message
    assert "masked_lm_loss = " in message
    assert "in step 2 of 8. The step was not taken. There is no checkpoint yet." in message
    assert not changed


def test_a_rate_that_blows_up_ends_the_run(make_trainer):
    trainer = make_trainer(learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.train()
    assert trainer.state.global_step < 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_without_an_evaluation(make_trainer, tmp_path, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    interrupt = AtEachStep(lambda step: os.kill(os.getpid(), number) if step == 3 else None)
    trainer = make_trainer(callbacks=[interrupt], save_strategy="no", eval_strategy="steps", eval_steps=4)
    with pytest.raises(TrainingInterrupted, match=r"after step 4 of 8\. Everything is in .*checkpoint-4"):
        trainer.train()
    assert find_damage(tmp_path / "checkpoint-4") is None
    assert not [line for line in trainer.state.log_history if "eval_loss" in line]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_interrupt_ends_training_at_once(make_trainer, tmp_path):
    def interrupt_twice(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer = make_trainer(callbacks=[AtEachStep(interrupt_twice)], save_strategy="no")
    with pytest.raises(KeyboardInterrupt) as error:
        trainer.train()
    assert not isinstance(error.value, TrainingInterrupted)
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("limit", [1, 2])
def test_a_whole_checkpoint_is_there_at_any_moment(make_trainer, tmp_path, limit):
    kept = []

    def look(step):
        folders = sorted(tmp_path.glob("checkpoint-*"))
        kept.append(len(folders))
        assert all(find_damage(folder) is None for folder in folders)

    trainer = make_trainer(callbacks=[AtEachStep(look)], save_strategy="steps", save_steps=1, save_total_limit=limit)
    trainer.train()
    assert kept[0] == 0
    assert set(kept[2:]) == {limit}


def test_the_best_checkpoint_is_found_by_its_name(make_trainer, tmp_path):
    options = {"save_steps": 2, "eval_steps": 2, "save_strategy": "steps", "eval_strategy": "steps"}
    trainer = make_trainer(load_best_model_at_end=True, metric_for_best_model="loss", **options)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best in {str(tmp_path / f"checkpoint-{step}") for step in (2, 4, 6, 8)}
    assert find_damage(tmp_path / best) is None


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_an_interrupted_run_keeps_its_last_checkpoint_beside_the_best(make_trainer, tmp_path, strategy):
    """The library takes the end for that of an epoch and of the run: it would evaluate, and keep the best alone."""
    options = {"save_strategy": strategy, "eval_strategy": strategy, "save_steps": 2, "eval_steps": 2}
    options |= {"save_total_limit": 1, "metric_for_best_model": "loss", "greater_is_better": True}
    interrupt = AtEachStep(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None)
    trainer = make_trainer(callbacks=[interrupt], **options)
    with pytest.raises(TrainingInterrupted, match=r"after step 5 of 8\. Everything is in .*checkpoint-5:"):
        trainer.train()
    assert find_damage(tmp_path / "checkpoint-5") is None
    evaluated = [line["step"] for line in trainer.state.log_history if "eval_loss" in line]
    assert evaluated == {"steps": [2, 4], "epoch": []}[strategy]


def test_a_phase_ends_with_its_last_checkpoint_beside_the_best(make_trainer, tmp_path):
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    options |= {"save_total_limit": 1, "metric_for_best_model": "loss", "greater_is_better": True}
    make_trainer(callbacks=[EndAt(5)], **options).train()
    assert last_good_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
