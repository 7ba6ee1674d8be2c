"""Batches, small networks and arguments for the tests of both trainers."""

import sys

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback

import mobilebert_hf_cli as cli
from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import PAPER, DistillationArguments

from .models.helpers import Original, build


def fixed_masks(examples, tokenizer):
    """Each example masked once, so that what is predicted does not depend on how batches are made."""
    torch.manual_seed(0)
    collate = PretrainingCollator(tokenizer)
    return [{name: values[0] for name, values in collate([example]).items()} for example in examples]


def pad(rows):
    """A batch of examples that are masked already."""
    batch = {
        name: pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=-100 if name == "labels" else 0
        )
        for name in ("input_ids", "attention_mask", "token_type_ids", "labels")
    }
    return {**batch, "next_sentence_label": torch.stack([row["next_sentence_label"] for row in rows])}


def pretraining_model(family, tokenizer, **fields):
    """A small network for pre-training with the vocabulary of a tokenizer, always the same one."""
    return build(family, "ForPreTraining", vocab_size=len(tokenizer), **fields)


def training_arguments(kind, output_dir, **changes):
    """Arguments of class `kind` for a short and silent run."""
    values = {
        "per_device_train_batch_size": 8,
        "learning_rate": 2e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return kind(output_dir=str(output_dir), **{**values, **changes})


def paper_arguments(output_dir, **changes):
    """Arguments of a short distillation with the paper's settings."""
    library = {"weight_decay": 0.0, "adam_beta2": 0.999}
    return training_arguments(DistillationArguments, output_dir, **{**PAPER, **library, **changes})


def mobilebert(monkeypatch, *words):
    """The command `mobilebert-hf` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["mobilebert-hf", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.run()
    return ended.value.code


class AtEachStep(TrainerCallback):
    """Calls a function with the global step before every step of training and after the last one."""

    def __init__(self, function):
        self.function = function

    def on_step_begin(self, args, state, control, **kwargs):
        self.function(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.function(state.global_step)


def training_logs(trainer):
    return [line for line in trainer.state.log_history if "loss" in line]


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before, after):
    """The names of what is not the same to the bit in two snapshots."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def by_our_names(arrays):
    """Arrays by the original's variable names -> tensors by our parameters' names, transposed where ours are."""
    return dict(Original._convert(None, name, array) for name, array in arrays.items())
