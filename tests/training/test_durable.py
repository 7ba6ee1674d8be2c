"""What ends a run before it does harm, in the trainer's own process; see tests/test_recovery.py for real deaths."""

import math
import os
import signal

import pytest
import torch
from transformers import TrainerCallback

from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.runs.checkpoints import find_damage, last_good_checkpoint
from mobilebert_hf.training import EndAt, PreTrainingArguments, TrainingInterrupted
from mobilebert_hf.training.gradients import gradients_of, total_norm

from ..helpers import (
    AtEachStep,
    moved,
    paper_arguments,
    pretraining_model,
    snapshot,
    training_arguments,
    training_logs,
)


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


def scaled_gradients(factor):
    def spoil(trainer):
        weight = trainer.model.mobilebert.encoder.layer[1].intermediate.dense.weight
        weight.register_hook(lambda gradient: gradient * factor)

    return spoil


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
    message, changed, _ = fails_at(make_trainer, 1, scaled_gradients(float("inf")))
    assert "The gradient of mobilebert.encoder.layer.1.intermediate.dense.weight is not finite" in message
    assert "masked_lm_loss = " in message
    assert "in step 2 of 8. The step was not taken. There is no checkpoint yet." in message
    assert not changed


def test_a_rate_that_blows_up_ends_the_run(make_trainer):
    trainer = make_trainer(learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.train()
    assert trainer.state.global_step < 8


class ClippedNorms(TrainerCallback):
    """The gradients' norm, in float64, when the optimizer takes them."""

    def __init__(self):
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [parameter.grad.double().flatten() for parameter in model.parameters()]
        self.norms.append(torch.cat(gradients).norm().item())


def test_gradients_whose_norm_overflows_are_clipped_as_any_others(make_trainer):
    """Every one of them is finite: PyTorch's clipping would make them all zero."""
    clipped = ClippedNorms()
    spoil = AtEachStep(lambda step: scaled_gradients(1e25)(trainer) if step == 3 else None)
    trainer = make_trainer(callbacks=[spoil, clipped], max_grad_norm=0.5)
    before = snapshot(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 8
    assert clipped.norms == pytest.approx([0.5] * 8, rel=1e-4)
    logged = [line["grad_norm"] for line in training_logs(trainer)]
    assert max(logged[:3]) < 1e3
    assert min(logged[3:]) > 1e20
    assert all(math.isfinite(norm) for norm in logged)
    assert all(torch.isfinite(weight).all() for weight in trainer.model.state_dict().values())
    assert moved(before, snapshot(trainer.model))


def test_squares_that_overflow_unclipped_are_named(make_trainer):
    """The optimizer's moments would be infinite from then on, and what they belong to would never move again."""
    message, changed, _ = fails_at(make_trainer, 1, scaled_gradients(1e25), max_grad_norm=0.0)
    name = "mobilebert.encoder.layer.1.intermediate.dense.weight"
    assert message.startswith("Every gradient is finite, but the square of the largest (")
    assert f", of {name}) overflows float32, and an optimizer keeps squares; the losses are: " in message
    assert "in step 2 of 8" in message
    assert "rank" not in message
    assert not changed


def test_the_norm_is_computed_once(make_trainer, monkeypatch):
    """Not once to see whether it is finite and again to clip by it."""
    calls = []
    real = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda *args: calls.append(args) or real(*args))
    monkeypatch.setattr(torch.nn.utils.clip_grad, "_get_total_norm", None)
    trainer = make_trainer(max_steps=2)
    trainer.train()
    assert len(calls) == 2


def test_unscaled_float16_gradients_are_clipped_by_a_norm_that_overflows(make_trainer):
    trainer = make_trainer()
    trainer.accelerator.scaler = object()  # leaves it to the trainer to measure what was unscaled
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e25)
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert trainer._clip_grad_norm(trainer.model) == pytest.approx(1e25 * count**0.5, rel=1e-5)
    assert total_norm(gradients_of(trainer.model)).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (0, "The loss is not finite on rank 1 of 2, which names it"),
        (1, "A gradient is not finite on rank 1 of 2, which names it"),
    ],
)
def test_another_process_is_named_by_its_rank(make_trainer, broken, what):
    trainer = make_trainer()

    def gather(flags):
        other = torch.zeros_like(flags)
        other[broken if len(flags) > 1 else 0] = 1.0
        return torch.cat([flags, other])

    trainer.accelerator.gather = gather
    with pytest.raises(FloatingPointError, match=rf"^{what}, in step 1 of 8\. The step was not taken\."):
        trainer.train()


def test_a_loss_that_is_the_sum_of_finite_terms_is_told_from_them(make_trainer):
    trainer = make_trainer()
    trainer.loss_terms = lambda: {"masked_lm_loss": torch.tensor(3e38), "next_sentence_loss": torch.tensor(2e38)}
    real = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: real(*args, **kwargs) * float("inf")
    with pytest.raises(FloatingPointError, match=r"^The loss is inf, though each of its terms is finite: masked_lm"):
        trainer.train()


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
