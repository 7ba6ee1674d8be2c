"""Early stopping, cut off at any moment and resumed, against a whole run."""

import shutil

import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from mobilebert_hf.training import DurableTrainer
from mobilebert_hf.training.interruption import TrainingInterrupted

from ..helpers import AtEachStep, snapshot, training_arguments

SCORES = [0.5, 0.8, 0.7, 0.6, 0.9, 0.9, 0.9, 0.9]  # by epoch: with a patience of 2 the fourth is the last one
STEPS = 2  # of an epoch


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(2, 1)

    def forward(self, x, labels):
        y = self.line(x)[:, 0]
        return {"loss": (y - labels).pow(2).mean(), "logits": y}


class OneLine(DurableTrainer):
    def create_model_card(self, **fields):
        """None."""


def make(folder, *callbacks, patience=2, stopping=True):
    rows = [{"x": torch.tensor([index / 8, 1.0]), "labels": float(index % 3)} for index in range(8)]
    arguments = training_arguments(
        TrainingArguments,
        folder,
        per_device_train_batch_size=4,
        num_train_epochs=8,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        label_names=["labels"],
        report_to="none",
    )

    def scripted(prediction):
        return {"score": SCORES[round(trainer.state.epoch) - 1]}

    trainer = OneLine(
        Line(), arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=scripted, callbacks=list(callbacks)
    )
    if stopping:
        trainer.add_callback(EarlyStoppingCallback(patience))
    return trainer


class Killed(Exception):
    pass


class KilledAtTheEnd(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        raise Killed


def kill_at(step):
    def at_each(number):
        if number == step:
            raise Killed

    return AtEachStep(at_each)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    trainer = make(tmp_path_factory.mktemp("whole"))
    trainer.train()
    assert trainer.state.epoch == 4
    return snapshot(trainer.model)


def equal(trainer, whole):
    assert trainer.state.epoch == 4
    return all(torch.equal(value, whole[name]) for name, value in snapshot(trainer.model).items())


@pytest.mark.parametrize("step", range(1, 4 * STEPS + 1))
def test_a_run_that_was_killed_stops_where_a_whole_one_does(tmp_path, whole, step):
    callback = kill_at(step) if step < 4 * STEPS else KilledAtTheEnd()
    with pytest.raises(Killed):
        make(tmp_path, callback).train()
    resumed = make(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert equal(resumed, whole)


def test_a_run_that_was_interrupted_and_moved_keeps_the_best_model(tmp_path, whole):
    trainer = make(tmp_path / "runs")
    interruption = trainer.interruption
    trainer.add_callback(AtEachStep(lambda step: setattr(interruption, "agreed", step >= 3 * STEPS)))
    trainer.finite_check.check_finite_and_signals = lambda model, loss: None
    with pytest.raises(TrainingInterrupted):
        trainer.train()
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    resumed = make(tmp_path / "moved")
    resumed.train(resume_from_checkpoint=True)
    assert equal(resumed, whole)
    assert resumed.state.best_model_checkpoint == str(tmp_path / "moved" / f"checkpoint-{2 * STEPS}")


def test_a_finished_run_goes_on_with_more_patience(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, KilledAtTheEnd()).train()
    resumed = make(tmp_path, patience=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.epoch == 8


def test_early_stopping_can_be_added_to_a_run(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, kill_at(STEPS + 1), stopping=False).train()
    resumed = make(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.epoch == 4
