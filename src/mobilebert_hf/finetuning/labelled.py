"""Fine-tuning on your own labelled examples: classes, sets of labels, scores, pairs of texts, tagged words."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, EarlyStoppingCallback, EvalPrediction, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..progress import show_progress
from ..runs.run_folder import find_checkpoint, open_run_folder
from ..tables import terminal_table
from ..tasks.kinds import find_kind
from ..tasks.labelled_data import LabelledData, load_labelled
from ..training import DurableTrainer
from .arguments import ExampleArguments, TaskArguments
from .encoder import EncoderArguments, add_adapter, load_encoder
from .labelled_report import describe_labelled_model, write_results
from .methods import Encoded, Method, TagMethod, TextMethod, find_method
from .trainer import planned_steps, prepare_for_fine_tuning


@dataclass
class LabelledArguments(ExampleArguments, TaskArguments):
    """Your own labels."""

    train: str = field(
        kw_only=True,
        metadata={
            "help": "File of labelled examples (.csv, .tsv, .json, .jsonl, .parquet, for tag also CoNLL columns; .gz, "
            ".bz2, .xz or .zst too), folder saved by datasets, or Hub dataset."
        },
    )
    label_all_pieces: bool = field(
        default=False,
        metadata={"help": "tag: train on all pieces of a word, not only on the first one, which always decides."},
    )
    class_weights: bool = field(
        default=False,
        metadata={"help": "classify, pairs: weight the loss of a class by the inverse of its number of examples."},
    )


@dataclass
class LabelledTrainingArguments(TrainingArguments):
    """Training, with defaults for small encoders and thousands of examples.

    The epoch with the best validation score is kept.
    """

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Training batch size per device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Evaluation batch size per device."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Maximum number of epochs."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: a share of all steps, or a number of steps."})
    weight_decay: float = field(
        default=0.01, metadata={"help": "Weight decay of AdamW. Not applied to norms and biases."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Log every this many steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep, besides the best one."})


RECIPE_ARGUMENTS = (EncoderArguments, LabelledArguments, LabelledTrainingArguments)


def finetune_labelled(
    encoder: EncoderArguments, task: LabelledArguments, training: TrainingArguments
) -> dict[str, Any]:
    """Fine-tunes on labelled examples, keeps the best epoch, and scores it on validation and test examples.

    Resumes from the last complete checkpoint. Writes the model, whose configuration has the names of the labels;
    `results.json` and `results.md` with all scores; `confusion.png` and `worst_examples.jsonl`.

    Returns:
        The content of `results.json`.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM was received; a checkpoint was written.
        FileNotFoundError: A file is missing.
        ValueError: Data or arguments are invalid. It is raised before training starts.
    """
    kind = find_kind(task.task[0])
    with training.main_process_first(desc="reading labels"):
        data = load_labelled(kind, task.train, task.validation, task.test, task.columns, task.holdout)
    if task.class_weights and data.kind.label != "class":
        raise ValueError(f"class_weights=True: {kind.name} has no loss by class. Leave it out.")
    if task.max_train_samples is not None:
        order = np.random.default_rng(0).permutation(len(data.splits["train"]))
        data.splits["train"] = data.splits["train"].select(order[: task.max_train_samples].tolist())
    if training.process_index == 0:
        show_data(data)
    method = make_method(task.max_seq_length, data, encoder.model)
    if isinstance(method, TagMethod):
        method.label_all_pieces = task.label_all_pieces
    encoded = {split: method.encode(examples) for split, examples in data.splits.items()}
    keep_best_epoch(training)
    set_seed(training.seed)
    auto_class = getattr(transformers, kind.head.auto_class)
    model: nn.Module = load_encoder(encoder, auto_class, **method.fields)
    model = add_adapter(model, encoder, kind.head.adapter, planned_steps(training, len(encoded["train"].rows)))
    with open_run_folder(training, (encoder, task, training)) as folder:
        trainer = make_trainer(DurableTrainer, method, encoded, training, model=model)
        if task.class_weights:
            trainer.compute_loss_func = weighted_loss(np.array(encoded["train"].rows["labels"]), len(method.names))
        if task.early_stopping is not None:
            trainer.add_callback(EarlyStoppingCallback(task.early_stopping))
        show_progress(trainer, f"{kind.name} {Path(task.train).name}")
        trainer.train(resume_from_checkpoint=find_checkpoint(training))
        results = finish(trainer, method, data, encoded, folder)
        trainer.facts = describe_labelled_model(results, encoder.model, task.train)
        trainer.save_state()
        trainer.finish()
    return results


def show_data(data: LabelledData) -> None:
    """Prints the labels with their counts in every split, and the notes."""
    console = Console(stderr=True)
    sizes = [["", *data.splits], ["examples", *(f"{len(examples):,}" for examples in data.splits.values())]]
    counts = {split: data.counts(split) for split in data.splits} if data.names else {}
    rows = [[name, *(f"{counts[split][name]:,}" for split in counts)] for name in data.names]
    console.print(terminal_table([*sizes, *rows], f"{data.kind.name}, {len(data.names) or 'no'} classes"))
    for note in data.notes:
        console.print(note)


def make_method(max_length: int | None, data: LabelledData, model: str) -> TextMethod | TagMethod:
    """The method of a task, with the tokenizer of the model.

    Raises:
        ValueError: `max_length` is more than the model takes.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    longest = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None) or tokenizer.model_max_length
    if max_length is not None and max_length > longest:
        raise ValueError(f"max_seq_length={max_length}, but {model} takes {longest} tokens at most.")
    return find_method(data.kind, data.names, tokenizer, min(max_length or data.kind.max_length, longest))


def keep_best_epoch(training: TrainingArguments) -> None:
    """Validates and saves after each epoch, and loads the best one at the end."""
    training.eval_strategy, training.save_strategy = IntervalStrategy.EPOCH, SaveStrategy.EPOCH
    training.load_best_model_at_end = training.greater_is_better = True
    training.metric_for_best_model = "score"


def make_trainer(
    trainer_class: Callable[..., Any], method: Method, encoded: dict[str, Encoded], training: Any, **options: Any
) -> Any:
    """A trainer whose validation metrics are those of the task, and `score`, the first of them.

    Args:
        trainer_class: `DurableTrainer` or a subclass.
        method: The method of the task.
        encoded: The splits; metrics are computed if `validation` has labels.
        training: The training arguments.
        options: Other arguments of the class, such as `model`.
    """
    validation = encoded.get("validation")

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        assert validation is not None
        logits: Any = prediction.predictions
        if isinstance(method, TextMethod):
            method.tune(validation, np.asarray(logits))
        metrics = {name: value or 0.0 for name, value in method.score(validation, logits).metrics.items()}
        return {**metrics, "score": next(iter(metrics.values()))}

    is_labelled = validation is not None and "labels" in validation.rows.column_names
    trainer = trainer_class(
        args=training,
        train_dataset=encoded["train"].rows,
        eval_dataset=None if validation is None else validation.rows,
        data_collator=method.collator,
        processing_class=method.tokenizer,
        compute_metrics=compute_metrics if is_labelled else None,
        **options,
    )
    return prepare_for_fine_tuning(trainer)


def finish(
    trainer: DurableTrainer,
    method: Method,
    data: LabelledData,
    encoded: dict[str, Encoded],
    folder: Path,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores the trained model on validation and test examples, and saves it and the results.

    The tuned thresholds of several labels are moved into the biases of the classifier, so that the threshold of every
    label is a probability of 0.5 in each pipeline, export and runtime. `tuned_thresholds` in the configuration says
    where they were. `more` is added to `results.json`.
    """
    logits: dict[str, Any] = {
        split: trainer.predict(part.rows.remove_columns("labels")).predictions
        for split, part in encoded.items()
        if split != "train"
    }
    if isinstance(method, TextMethod) and method.kind.label == "classes":
        method.tune(encoded["validation"], logits["validation"])
        merge = trainer.finalize_model or (lambda model: model)
        thresholds = torch.from_numpy(np.asarray(method.thresholds))
        trainer.finalize_model = lambda model: move_thresholds(merge(model), thresholds)
    results: dict[str, Any] = {}
    if trainer.args.process_index == 0:
        results = write_results(folder, method, data, encoded, logits, more or {})
    trainer.save_final_model()
    return results


def move_thresholds(model: Any, thresholds: Tensor) -> Any:
    """Subtracts the thresholds, logits [labels], from the biases of the classifier, and notes them as probabilities.

    Raises:
        ValueError: The classifier has no bias.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    last = next(layer for layer in reversed(layers) if layer.out_features == len(thresholds))
    if last.bias is None:
        raise ValueError(f"The classifier of {type(model).__name__} has no bias to move the thresholds into.")
    with torch.no_grad():
        last.bias.sub_(thresholds.to(last.bias))
    names = model.config.id2label
    model.config.tuned_thresholds = {
        names[index]: round(float(value), 4) for index, value in enumerate(thresholds.sigmoid())
    }
    return model


def weighted_loss(labels: np.ndarray, classes: int) -> Callable[..., Tensor]:
    """The cross-entropy in which every class has the same weight over all examples together."""
    counts = np.bincount(labels, minlength=classes).clip(min=1)
    weights = torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)
    return partial(_weighted_cross_entropy, weights)


def _weighted_cross_entropy(weights: Tensor, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    logits = outputs["logits"].float()
    losses = nn.functional.cross_entropy(logits, labels, weights.to(logits.device), reduction="sum")
    return losses / (len(labels) if num_items_in_batch is None else num_items_in_batch)
