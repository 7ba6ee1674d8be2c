"""Cross-encoders for GLUE: a classification head on one sequence, which holds both sentences of a pair."""

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
    """Tokenization, training and prediction of a task. `BiEncoder` has the same methods.

    Args:
        task: The task.
        tokenizer: The tokenizer of the encoder.
        max_length: Maximum number of tokens in a sequence; the rest is truncated.
    """

    def __init__(self, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.task, self.tokenizer, self.max_length = task, tokenizer, max_length

    def tokenize(self, splits: DatasetDict) -> DatasetDict:
        """The tokenized splits of `load_glue`."""
        return tokenize_glue(splits, self.tokenizer, self.max_length)

    def load(self, source: EncoderArguments, steps: int) -> nn.Module:
        """The encoder with a classification head, and with its adapter if any.

        Args:
            source: What to load.
            steps: Number of training steps.
        """
        model = load_encoder(source, AutoModelForSequenceClassification, **label_fields(self.task.labels))
        return add_adapter(model, source, CLASSIFICATION.adapter, steps)

    def trainer(self, model: Any, training: TrainingArguments, splits: DatasetDict) -> DurableTrainer:
        """A trainer whose validation metrics are those of the task, and `score`, their mean."""

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            scores = score_glue(self.task, self.answers(prediction.predictions), prediction.label_ids)
            # The best epoch is chosen by these: an undefined metric counts as 0, like chance.
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
        """The arguments of `answers` besides the logits: none."""
        return {}

    def answers(self, logits: Any) -> np.ndarray:
        """The predicted classes or scores; see `best_classes`."""
        return best_classes(self.task, logits)

    def save(self, trainer: DurableTrainer, source: str) -> None:
        """Saves the trained model."""
        trainer.save_final_model()


def best_classes(task: GlueTask, logits: np.ndarray) -> np.ndarray:
    """The predicted classes [n] of logits [n, classes]; for STS-B the scores [n] of [n, 1]."""
    return logits[:, 0] if task.regression else logits.argmax(-1)
