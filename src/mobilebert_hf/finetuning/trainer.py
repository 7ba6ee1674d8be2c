"""What all fine-tuning tasks change in a trainer."""

import math
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformers import TrainingArguments

from ..training import DurableTrainer
from .adapter_folder import merge_adapter

AnyTrainer = TypeVar("AnyTrainer", bound=DurableTrainer)


def prepare_for_fine_tuning(trainer: AnyTrainer) -> AnyTrainer:
    """Batches sequences of similar length in training, and merges an adapter into the final model.

    Predictions are in the order of the data. The adapter is saved in `adapter/` as well.
    """
    trainer.args.train_sampling_strategy = "group_by_length"
    trainer.finalize_model = partial(merge_adapter, folder=Path(trainer.args.output_dir or "."))
    return trainer


def planned_steps(training: TrainingArguments, examples: int) -> int:
    """The number of optimizer steps that the Trainer will take, computed before it exists."""
    if training.max_steps > 0:
        return training.max_steps
    batches = math.ceil(examples / (training.train_batch_size * training.world_size))
    return math.ceil(training.num_train_epochs * math.ceil(batches / training.gradient_accumulation_steps))
