"""Pre-training on masked-LM and next-sentence prediction, of a teacher or of a student without one.

What `transformers.Trainer` does not have: LAMB with a rate for each place in the network, each loss term in the
logs, and an evaluation in the field's terms (masked-LM loss and accuracy, next-sentence accuracy).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from ..data import PretrainingCollator
from ..models.heads import PreTrainingOutput
from .optimizer import lamb, parameter_groups

# For every example of a batch: the sum of a quantity over the example's positions, and how many positions count.
Columns = dict[str, tuple[Tensor, Tensor]]

ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class PreTrainingArguments(TrainingArguments):
    r"""The library's `TrainingArguments`, and the choice of the paper's optimizer.

    Args:
        use_lamb (`bool`, *optional*, defaults to `False`):
            LAMB as in the original code, with the library's `adam_beta1`, `adam_beta2`, `adam_epsilon` and
            `weight_decay`. It is made for large batches (the paper: 2048 and more); for small ones leave the
            library's `optim`.
    """

    use_lamb: bool = field(default=False, metadata={"help": "LAMB as in the original, in place of `optim`."})


class PreTrainer(Trainer):
    """`transformers.Trainer` for `...ForPreTraining` models and batches of `PretrainingCollator`.

    Logs `masked_lm_loss` and `next_sentence_loss` (nats) beside their sum. Evaluation reports those two, their sum
    `loss`, and `masked_lm_accuracy` and `next_sentence_accuracy` (shares of 1).
    """

    args: PreTrainingArguments
    data_collator: PretrainingCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_EpochCallback(self.data_collator))
        self.compute_metrics = self._average_columns
        self._column_names: list[str] = []
        self._recorded: dict[str, list[Tensor]] = defaultdict(list)

    # ---- optimizer and rates

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the library's, with a parameter group for each place in the network (see `parameter_groups`)."""
        if self.optimizer is None:
            model = model or self.model
            assert model is not None
            groups = parameter_groups(model, self.args.weight_decay, trust_ratio=self.args.use_lamb)
            if self.args.use_lamb:
                betas = (self.args.adam_beta1, self.args.adam_beta2)
                self.optimizer = lamb(groups, self.args.learning_rate, betas, self.args.adam_epsilon)
            else:
                optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
                self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    # ---- training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Masked-LM loss plus next-sentence loss; logits are computed at the masked positions alone."""
        predicted = inputs["labels"] != -100
        outputs = model(**encoder_inputs(inputs), prediction_mask=predicted)
        terms = {
            "masked_lm_loss": F.cross_entropy(outputs.prediction_logits.float(), inputs["labels"][predicted]),
            "next_sentence_loss": F.cross_entropy(
                outputs.seq_relationship_logits.float(), inputs["next_sentence_label"]
            ),
        }
        self.record(terms)
        loss = terms["masked_lm_loss"] + terms["next_sentence_loss"]
        return (loss, outputs) if return_outputs else loss

    def record(self, terms: Mapping[str, Tensor]) -> None:
        """Keeps scalars for the next log line, which shows their means since the last one."""
        for name, value in terms.items():
            self._recorded[name].append(value.detach().float())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the library's; lines of training also carry what was recorded, averaged over processes."""
        if "loss" in logs and self._recorded:
            means = torch.stack([torch.stack(values).mean() for values in self._recorded.values()])
            means = self.accelerator.reduce(means, reduction="mean")
            logs = {**logs, **dict(zip(self._recorded, means.tolist(), strict=True))}
            self._recorded.clear()
        super().log(logs, start_time)

    # ---- evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the library's; the same tokens are predicted whatever the epoch."""
        epoch, self.data_collator.epoch = getattr(self.data_collator, "epoch", 0), 0
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.data_collator.epoch = epoch

    def evaluation_columns(self, model: nn.Module, inputs: dict[str, Tensor]) -> Columns:
        """What evaluation averages, of one batch; subclasses add to it."""
        predicted = inputs["labels"] != -100
        outputs = model(**encoder_inputs(inputs), prediction_mask=predicted)
        return pretraining_columns(outputs, inputs["labels"], inputs["next_sentence_label"])

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the columns in place of logits: a row an example, so that processes can be gathered."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            columns = self.evaluation_columns(model, inputs)
        self._column_names = list(columns)
        rows = torch.stack([torch.stack((sums.float(), counts.float()), -1) for sums, counts in columns.values()], 1)
        means = _means(rows)
        loss = (
            means[self._column_names.index("masked_lm_loss")] + means[self._column_names.index("next_sentence_loss")]
        )
        return loss, rows, inputs["next_sentence_label"]

    def _average_columns(self, prediction: EvalPrediction) -> dict[str, float]:
        means = _means(torch.as_tensor(prediction.predictions))
        metrics = dict(zip(self._column_names, means.tolist(), strict=True))
        return {"loss": metrics["masked_lm_loss"] + metrics["next_sentence_loss"], **metrics}


class _EpochCallback(TrainerCallback):
    """Tells the collator the epoch, so that each one has masks of its own."""

    def __init__(self, collator: PretrainingCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The state counts in fractions of an epoch, which add up to almost a whole one.
        self.collator.epoch = int((state.epoch or 0.0) + 1e-6)


def encoder_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a batch that the encoder reads."""
    return {name: inputs[name] for name in ENCODER_INPUTS}


def per_place_scheduler(optimizer: torch.optim.Optimizer, rates: Callable[[int], Mapping[str, float]]) -> LambdaLR:
    """A scheduler that multiplies each parameter group's rate by `rates(step)[group["name"]]`.

    Args:
        optimizer: With groups of `parameter_groups`.
        rates: From the number of steps taken to a factor for each place; a pure function.
    """

    def factor_of(place: str) -> Callable[[int], float]:
        return lambda step: rates(step)[place]

    return LambdaLR(optimizer, [factor_of(group["name"]) for group in optimizer.param_groups])


def pretraining_columns(outputs: PreTrainingOutput, labels: Tensor, next_sentence_label: Tensor) -> Columns:
    """Losses and accuracies of the two heads, for each example.

    Args:
        outputs: With `prediction_logits` [n, vocab_size] at the n positions where `labels` is not -100.
        labels: [batch, seq], int64.
        next_sentence_label: [batch], int64.
    """
    assert outputs.prediction_logits is not None
    assert outputs.seq_relationship_logits is not None
    predicted = labels != -100
    targets = labels[predicted]
    losses = F.cross_entropy(outputs.prediction_logits.float(), targets, reduction="none")
    hits = outputs.prediction_logits.argmax(-1) == targets
    sentence_logits = outputs.seq_relationship_logits.float()
    sentence_hits = sentence_logits.argmax(-1) == next_sentence_label
    one = torch.ones_like(next_sentence_label)
    return {
        "masked_lm_loss": _per_example(losses, predicted),
        "masked_lm_accuracy": _per_example(hits.float(), predicted),
        "next_sentence_loss": (F.cross_entropy(sentence_logits, next_sentence_label, reduction="none"), one),
        "next_sentence_accuracy": (sentence_hits.float(), one),
    }


def _per_example(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """From values [n] at the n True positions of [batch, seq] to sums and counts [batch]."""
    sums = torch.zeros(positions.shape, device=values.device).masked_scatter_(positions, values).sum(1)
    return sums, positions.sum(1)


def _means(rows: Tensor) -> Tensor:
    """[examples, columns, (sum, count)] -> [columns]."""
    totals = rows.double().sum(0)
    return totals[:, 0] / totals[:, 1]
