"""The trainer of all fine-tuning tasks."""

import math
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainingArguments

from ..training import DurableTrainer
from .encoder import merge_adapter


class FineTuner(DurableTrainer):
    """Trains on length-bucketed batches, and predicts in the order of the data."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.args.train_sampling_strategy = "group_by_length"

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # The library would group these by length, too, in a random order that it does not return.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def save_final_model(self) -> None:
        """Saves the model as `DurableTrainer` does. An adapter is merged, and also saved in `adapter/`."""
        if self.args.should_save:
            self.model = merge_adapter(self.accelerator.unwrap_model(self.model), Path(self.args.output_dir or "."))
        super().save_final_model()


def planned_steps(training: TrainingArguments, examples: int) -> int:
    """The number of optimizer steps that the Trainer will take, computed before it exists."""
    if training.max_steps > 0:
        return training.max_steps
    batches = math.ceil(examples / (training.train_batch_size * training.world_size))
    return math.ceil(training.num_train_epochs * math.ceil(batches / training.gradient_accumulation_steps))
