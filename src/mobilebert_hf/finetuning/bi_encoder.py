"""A task of GLUE for a network that reads every text by itself: pairs are compared by the cosine of their embeddings.

So are sentence encoders used (Reimers and Gurevych, 2019, arXiv 1908.10084), which know nothing of two texts in one
input. What comes of it is a sentence encoder again.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import AutoConfig, AutoModel, EvalPrediction, PreTrainedTokenizerBase, TrainingArguments

from ..distillation.losses import mean_pool
from ..distillation.sentence_encoder import write_sentence_encoder
from ..tasks.glue_tasks import TASKS, GlueTask
from ..tasks.heads import FEATURES
from ..training import DurableTrainer
from ..training.compat import prepare_inputs
from .encoder import EncoderArguments, add_adapter, load_encoder
from .trainer import prepare_for_fine_tuning

# What CoSENT multiplies cosines by.
SCALE = 20.0
# A threshold is chosen on so many training examples at the most.
THRESHOLD_EXAMPLES = 10_000


class BiEncoder:
    """How a task is read, learned and answered; `CrossEncoder` has the same methods.

    Args:
        task: A task whose texts are alike or not: it has two classes, or scores.
        tokenizer: The encoder's.
        max_length: Tokens of a text; longer ones are cut off.

    Raises:
        ValueError: The task is another one.
    """

    def __init__(self, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not _is_comparison(task):
            possible = ", ".join(key for key, other in TASKS.items() if _is_comparison(other))
            raise ValueError(
                f"bi_encoder: {task.name} is not about how much two texts are alike; choose tasks from {possible}."
            )
        self.task, self.tokenizer, self.max_length = task, tokenizer, max_length
        # The other class has the same name, but for a `not_`.
        self.alike = next((index for index, name in enumerate(task.labels) if not name.startswith("not_")), None)

    def tokenize(self, splits: DatasetDict) -> DatasetDict:
        """The splits of `load_glue` with `input_ids` of both texts, `length` of both together, and `label`."""

        def tokenize(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            first, second = (
                self.tokenizer(rows[name], truncation=True, max_length=self.max_length)["input_ids"]
                for name in ("sentence1", "sentence2")
            )
            pairs = [list(pair) for pair in zip(first, second, strict=True)]
            return {"input_ids": pairs, "length": [len(one) + len(other) for one, other in pairs]}

        return splits.map(tokenize, batched=True, remove_columns=["sentence1", "sentence2"], desc="tokenizing")

    def load(self, source: EncoderArguments, steps: int) -> nn.Module:
        """The network, without a head, with an adapter if one is asked for; `steps` is how many training has."""
        return add_adapter(load_encoder(source, AutoModel), source, FEATURES.adapter, steps)

    def trainer(self, model: Any, training: TrainingArguments, splits: DatasetDict) -> DurableTrainer:
        """Validates by Spearman's correlation of cosines and labels, `score`, which needs no threshold."""

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            return {"score": float(np.nan_to_num(spearmanr(prediction.predictions, prediction.label_ids).statistic))}

        training.remove_unused_columns = False  # the network knows no `length`
        trainer = PairTrainer(
            model=model,
            args=training,
            train_dataset=splits.get("train"),
            eval_dataset=splits.get(self.task.validation_splits[0]),
            data_collator=self.collate,
            processing_class=self.tokenizer,
            compute_metrics=compute_metrics,
        )
        return prepare_for_fine_tuning(trainer)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` [n, 2, seq]; `labels` [n], float32, the larger the more alike."""
        texts = [{"input_ids": ids} for row in rows for ids in row["input_ids"]]
        padded = self.tokenizer.pad(texts, return_tensors="pt")
        batch = {name: value.unflatten(0, (-1, 2)) for name, value in padded.items()}
        if "label" in rows[0]:
            labels = [row["label"] if self.alike is None else row["label"] == self.alike for row in rows]
            batch["labels"] = torch.tensor(labels, dtype=torch.float32)
        return batch

    def decide(self, trainer: DurableTrainer, train: Dataset) -> dict[str, float]:
        """The `threshold` of the cosine that tells the classes of the training examples apart best."""
        if self.alike is None:
            return {}
        rows = train.select(range(min(len(train), THRESHOLD_EXAMPLES)))
        alike = np.array(rows["label"]) == self.alike
        cosines: Any = trainer.predict(rows).predictions
        return {"threshold": best_threshold(cosines, alike)}

    def answers(self, cosines: Any, threshold: float | None = None) -> np.ndarray:
        """The classes [n] of pairs with these cosines [n]; for STS-B scores from 0 to 5."""
        if self.alike is None:
            return 5 * cosines.clip(0, 1)
        return np.where(cosines > threshold, self.alike, 1 - self.alike)

    def save(self, trainer: DurableTrainer, source: str) -> None:
        """Saves what was trained, from the model `source`, in its folder, as sentence-transformers reads it."""
        trainer.save_final_model()
        if trainer.args.should_save:
            folder = Path(str(trainer.args.output_dir))
            write_sentence_encoder(folder, source, AutoConfig.from_pretrained(folder).hidden_size, self.max_length)


def _is_comparison(task: GlueTask) -> bool:
    return task.pair and len(task.labels) in (0, 2)


class PairTrainer(DurableTrainer):
    """Trains an encoder by the cosines of pairs, in the batches of `BiEncoder.collate`; predicts cosines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a batch's own: accumulated ones are averaged

    def cosines(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Of the mean-pooled outputs of both texts: float32 [n]."""
        texts = {name: value.flatten(0, 1) for name, value in inputs.items()}
        states = model(**texts).last_hidden_state.float()
        first, second = mean_pool(states, texts["attention_mask"]).unflatten(0, (-1, 2)).unbind(1)
        return cosine_similarity(first, second)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """`cosent_loss` of a batch."""
        labels = inputs.pop("labels")
        return cosent_loss(self.cosines(model, inputs), labels)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Loss, cosines and labels of a batch; neither loss nor labels where it has none."""
        inputs = prepare_inputs(self, inputs)
        labels = inputs.pop("labels", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            cosines = self.cosines(model, inputs)
        return None if labels is None else cosent_loss(cosines, labels), cosines, labels


def cosent_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """CoSENT (Huang et al., IEEE/ACM TASLP, 2024): log(1 + sum exp(20 (c_i - c_j))).

    The sum is over all i and j of a batch with label_i < label_j, whose cosines should be in the same order.

    Args:
        cosines: [n].
        labels: [n], the larger the more alike.
    """
    differences = SCALE * (cosines[:, None] - cosines[None, :])
    of_interest = differences[labels[:, None] < labels[None, :]]
    return torch.cat([of_interest.new_zeros(1), of_interest]).logsumexp(0)


def best_threshold(cosines: np.ndarray, alike: np.ndarray) -> float:
    """Halfway between the two cosines between which most pairs are on their right side; the lowest place of equals.

    Args:
        cosines: [n], n > 0.
        alike: bool [n], what should be above.
    """
    order = cosines.argsort()
    edges = np.concatenate([[cosines.min() - 1e-3], cosines[order], [cosines.max() + 1e-3]])
    places = (edges[1:] + edges[:-1]) / 2
    # One place up, a pair goes from above to below, which is right if it is not alike.
    right = alike.sum() + np.concatenate([[0], np.where(alike[order], -1, 1).cumsum()])
    # Between equal cosines there is no place.
    return float(places[np.where(np.diff(edges) > 0, right, -1).argmax()])
