"""Bi-encoders for GLUE: the sentences of a pair are encoded separately and compared by cosine similarity.

The trained model is a sentence encoder (Reimers and Gurevych, 2019, arXiv 1908.10084). If the model before training is
one, its prompts, pooling, dense layers and normalization are kept, and the network is trained through them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, EvalPrediction, TrainingArguments

from ..distillation.sentence_encoder import SentenceModules
from ..tasks.glue_tasks import TASKS, GlueTask
from ..tasks.heads import FEATURES
from ..training import DurableTrainer
from ..training.compat import prepare_inputs
from .encoder import EncoderArguments, add_adapter, load_encoder
from .trainer import prepare_for_fine_tuning

# The inverse temperature of the CoSENT loss.
SCALE = 20.0
# The threshold is chosen on at most this many training examples.
THRESHOLD_EXAMPLES = 10_000


class BiEncoder:
    """Tokenization, training and prediction of a task. `CrossEncoder` has the same methods.

    Args:
        task: A task about the similarity of two sentences, with two classes or with scores.
        modules: What surrounds the network.
        max_length: Maximum number of tokens in a sentence, if the encoder reads as many; the rest is truncated.

    Raises:
        ValueError: The task is not about the similarity of two sentences.
    """

    def __init__(self, task: GlueTask, modules: SentenceModules, max_length: int) -> None:
        if not _is_comparison(task):
            possible = ", ".join(key for key, other in TASKS.items() if _is_comparison(other))
            raise ValueError(
                f"bi_encoder: {task.name} is not about the similarity of two sentences; choose tasks from {possible}."
            )
        modules.limit(max_length)
        modules.similarity = "cosine"  # by which pairs are compared here
        self.task, self.modules, self.tokenizer = task, modules, modules.tokenizer
        # The class of similar pairs; the other one has the same name with `not_` before it.
        self.positive = next((index for index, name in enumerate(task.labels) if not name.startswith("not_")), None)

    def tokenize(self, splits: DatasetDict) -> DatasetDict:
        """The splits of `load_glue` with the `input_ids` of both sentences, their total `length`, and the `label`."""

        def tokenize(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
            first, second = (
                self.tokenizer([self.modules.default_prompt + text for text in examples[name]], truncation=True)
                for name in ("sentence1", "sentence2")
            )
            pairs = [list(pair) for pair in zip(first["input_ids"], second["input_ids"], strict=True)]
            return {"input_ids": pairs, "length": [len(one) + len(other) for one, other in pairs]}

        return splits.map(tokenize, batched=True, remove_columns=["sentence1", "sentence2"], desc="tokenizing")

    def load(self, source: EncoderArguments, steps: int) -> nn.Module:
        """The encoder without a head, with its adapter if any.

        Args:
            source: What to load.
            steps: Number of training steps.
        """
        return add_adapter(load_encoder(source, AutoModel), source, FEATURES.adapter, steps)

    def trainer(self, model: Any, training: TrainingArguments, splits: DatasetDict) -> DurableTrainer:
        """A trainer whose validation metric `score` is Spearman's correlation of cosines and labels.

        It needs no threshold.
        """

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            return {"score": float(np.nan_to_num(spearmanr(prediction.predictions, prediction.label_ids).statistic))}

        training.remove_unused_columns = False  # the model takes no `length`
        trainer = PairTrainer(
            modules=self.modules.to(training.device),
            model=model,
            args=training,
            train_dataset=splits.get("train"),
            eval_dataset=splits.get(self.task.validation_splits[0]),
            data_collator=self.collate,
            processing_class=self.tokenizer,
            compute_metrics=compute_metrics,
        )
        return prepare_for_fine_tuning(trainer)

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` [n, 2, seq]; `labels` [n], float32, larger for more similar pairs."""
        sentences = [{"input_ids": ids} for example in examples for ids in example["input_ids"]]
        padded = self.tokenizer.pad(sentences, return_tensors="pt")
        batch = {name: value.unflatten(0, (-1, 2)) for name, value in padded.items()}
        if "label" in examples[0]:
            labels = [example["label"] for example in examples]
            if self.positive is not None:
                labels = [label == self.positive for label in labels]
            batch["labels"] = torch.tensor(labels, dtype=torch.float32)
        return batch

    def decide(self, trainer: DurableTrainer, train: Dataset) -> dict[str, float]:
        """The `threshold` of the cosine with the best accuracy on the training examples; nothing for scores."""
        if self.positive is None:
            return {}
        examples = train.select(range(min(len(train), THRESHOLD_EXAMPLES)))
        positive = np.array(examples["label"]) == self.positive
        cosines: Any = trainer.predict(examples).predictions
        return {"threshold": best_threshold(cosines, positive)}

    def answers(self, cosines: Any, threshold: float | None = None) -> np.ndarray:
        """The classes [n] that cosines [n] predict; for STS-B the scores, from 0 to 5."""
        if self.positive is None:
            return 5 * cosines.clip(0, 1)
        return np.where(cosines > threshold, self.positive, 1 - self.positive)

    def save(self, trainer: DurableTrainer, source: str) -> None:
        """Saves the trained model as a sentence-transformers model.

        Args:
            trainer: After training.
            source: Hub id or folder of the model before training.
        """
        trainer.save_final_model()
        if trainer.args.should_save:
            self.modules.save(Path(str(trainer.args.output_dir)))


def _is_comparison(task: GlueTask) -> bool:
    return task.pair and len(task.labels) in (0, 2)


class PairTrainer(DurableTrainer):
    """Trains an encoder with the CoSENT loss on batches of `BiEncoder.collate`. Its predictions are cosines.

    Args:
        modules: What turns the outputs of the network into embeddings; not trained.
        kwargs: As `transformers.Trainer`.
    """

    def __init__(self, modules: SentenceModules, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.modules = modules
        self.model_accepts_loss_kwargs = False  # the loss compares pairs of one batch: accumulated losses are averaged

    def cosines(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """The cosines of the embeddings of both sentences: float32 [n]."""
        sentences = {name: value.flatten(0, 1) for name, value in inputs.items()}
        embeddings = self.modules(model(**sentences).last_hidden_state, sentences)
        first, second = embeddings.unflatten(0, (-1, 2)).unbind(1)
        return cosine_similarity(first, second)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The `cosent_loss` of a batch."""
        labels = inputs.pop("labels")
        return cosent_loss(self.cosines(model, inputs), labels)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Loss, cosines and labels of a batch; loss and labels are None for a batch without labels."""
        inputs = prepare_inputs(self, inputs)
        labels = inputs.pop("labels", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            cosines = self.cosines(model, inputs)
        return None if labels is None else cosent_loss(cosines, labels), cosines, labels


def cosent_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """CoSENT (Huang et al., IEEE/ACM TASLP, 2024): log(1 + sum exp(20 (c_i - c_j))).

    The sum is over all i and j of a batch with label_i < label_j.

    Args:
        cosines: [n].
        labels: [n], larger for more similar pairs.
    """
    differences = SCALE * (cosines[:, None] - cosines[None, :])
    ordered = differences[labels[:, None] < labels[None, :]]
    return torch.cat([ordered.new_zeros(1), ordered]).logsumexp(0)


def best_threshold(cosines: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the best accuracy, halfway between two cosines; the lowest one of equals.

    Args:
        cosines: [n], n > 0.
        positive: bool [n], the pairs that should be above the threshold.
    """
    order = cosines.argsort()
    edges = np.concatenate([[cosines.min() - 1e-3], cosines[order], [cosines.max() + 1e-3]])
    candidates = (edges[1:] + edges[:-1]) / 2
    # From one candidate to the next, one pair moves below the threshold, which is correct if it is negative.
    correct = positive.sum() + np.concatenate([[0], np.where(positive[order], -1, 1).cumsum()])
    # No threshold separates equal cosines.
    return float(candidates[np.where(np.diff(edges) > 0, correct, -1).argmax()])
