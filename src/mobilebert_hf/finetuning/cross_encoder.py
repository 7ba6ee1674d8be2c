"""A task of GLUE for a network that reads the texts of a pair together, and classifies what it has read."""

from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from ..tasks.glue_data import tokenize_glue
from ..tasks.glue_tasks import GlueTask
from ..tasks.heads import CLASSIFICATION
from ..tasks.metrics import score_glue
from ..training import DurableTrainer
from .encoder import EncoderArguments, add_adapter, label_fields, load_encoder
from .trainer import prepare_for_fine_tuning


class CrossEncoder:
    """How a task is read, learned and answered; `BiEncoder` has the same methods.

    Args:
        task: The task.
        tokenizer: The encoder's.
        max_length: Tokens of an example; longer ones are cut off.
    """

    def __init__(self, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.task, self.tokenizer, self.max_length = task, tokenizer, max_length

    def tokenize(self, splits: DatasetDict) -> DatasetDict:
        """The splits of `load_glue`, as the network reads them."""
        return tokenize_glue(splits, self.tokenizer, self.max_length)

    def load(self, source: EncoderArguments, steps: int) -> nn.Module:
        """The network, with an adapter if one is asked for; `steps` is how many training has."""
        model = load_encoder(source, AutoModelForSequenceClassification, **label_fields(self.task.labels))
        return add_adapter(model, source, CLASSIFICATION.adapter, steps)

    def trainer(self, model: Any, training: TrainingArguments, splits: DatasetDict) -> DurableTrainer:
        """Validates by the task's metrics, and by `score`, their mean."""

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            scores = score_glue(self.task, self.answers(prediction.predictions), prediction.label_ids)
            # To choose an epoch by; what is undefined is as bad as chance.
            number = {name: scores[name] or 0.0 for name in self.task.metrics}
            return {**number, "score": float(np.mean(list(number.values())))}

        trainer = DurableTrainer(
            model=model,
            args=training,
            train_dataset=splits.get("train"),
            eval_dataset=splits.get(self.task.validation_splits[0]),
            data_collator=DataCollatorWithPadding(self.tokenizer),
            processing_class=self.tokenizer,
            compute_metrics=compute_metrics,
        )
        return prepare_for_fine_tuning(trainer)

    def decide(self, trainer: DurableTrainer, train: Dataset) -> dict[str, float]:
        """What `answers` needs besides a trained network's outputs: nothing."""
        return {}

    def answers(self, logits: Any) -> np.ndarray:
        """See `best_classes`."""
        return best_classes(self.task, logits)

    def save(self, trainer: DurableTrainer, source: str) -> None:
        """Saves what was trained, from the model `source`, in its folder."""
        trainer.save_final_model()


def best_classes(task: GlueTask, logits: np.ndarray) -> np.ndarray:
    """The best class of each row of logits [n, classes]; for STS-B the scores [n] of [n, 1]."""
    return logits[:, 0] if task.regression else logits.argmax(-1)
