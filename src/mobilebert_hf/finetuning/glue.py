"""Fine-tuning on GLUE: sweeps, a table and a plot of the scores, and the files for the GLUE server."""

import logging
import shutil
import time
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from datasets import DatasetDict
from transformers import AutoTokenizer, EarlyStoppingCallback, PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..distillation.loading import Consent
from ..distillation.sentence_encoder import load_sentence_modules
from ..progress import show_progress
from ..runs.facts import ModelRecord
from ..runs.publishing import get_publisher
from ..runs.run_folder import RECIPE, find_checkpoint, open_run_folder
from ..tasks.glue_data import HUB_DATASET, load_glue
from ..tasks.glue_scores import task_score
from ..tasks.glue_tasks import TASKS, GlueTask, find_task
from ..tasks.kinds import KINDS
from ..tasks.metrics import score_glue
from ..tasks.submission import write_predictions, write_submission
from . import glue_report
from .arguments import FaultyRowArguments, TaskArguments
from .bi_encoder import BiEncoder
from .cross_encoder import CrossEncoder
from .encoder import EncoderArguments, count_parameters
from .facts import describe_glue_model
from .sweep import Cell, Finished, GridArguments, keep_best_model, plan, read_finished, write_finished
from .trainer import planned_steps

logger = logging.getLogger(__name__)

FROM_MNLI = ("rte", "mrpc", "stsb")


@dataclass
class GlueArguments(FaultyRowArguments, TaskArguments):
    """GLUE: data, method and outputs."""

    data: str = field(
        default=HUB_DATASET,
        metadata={
            "help": "Hub dataset, or a folder with a subfolder for each task: CoLA/train.tsv, CoLA/dev.tsv, ..."
        },
    )
    holdout: float | None = field(
        default=None,
        metadata={"help": "Share of the training examples to validate on, for tasks without a validation split."},
    )
    max_seq_length: int = field(
        default=KINDS["classify"].max_length,
        metadata={
            "help": "Maximum number of tokens in a sequence, or in each sentence with bi_encoder; the rest is "
            "truncated."
        },
    )
    bi_encoder: bool = field(
        default=False,
        metadata={
            "help": "Encode the two sentences of a pair separately and compare their embeddings by cosine similarity. "
            "For MRPC, STS-B, QQP, QNLI, RTE and WNLI. The saved model is a sentence encoder."
        },
    )
    mnli_init: bool = field(
        default=False,
        metadata={"help": "Initialize RTE, MRPC and STS-B from the best MNLI run in output_dir."},
    )
    early_stopping: int | None = field(
        default=None,
        metadata={
            "help": "Validate after each epoch, stop after this many epochs without a better score, and keep the best "
            "epoch."
        },
    )
    predict: bool = field(
        default=False,
        metadata={
            "help": "Predict the test splits with the best run of each task, and write the files that the GLUE server "
            "accepts."
        },
    )


RECIPE_ARGUMENTS = (EncoderArguments, GlueArguments, GridArguments, TrainingArguments)


def finetune_glue(
    encoder: EncoderArguments, glue: GlueArguments, grid: GridArguments, training: TrainingArguments
) -> dict[str, list[Finished]]:
    """Fine-tunes on all tasks with all settings, skips finished runs, and writes tables and predictions.

    Returns:
        The finished runs of each task, by its key.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM was received; a checkpoint was written.
        FileNotFoundError: The data of a task is missing.
        ValueError: Data or arguments are invalid. It is raised before training starts.
    """
    all_tasks = "glue" in map(str.lower, glue.task)
    asked = set(TASKS) if all_tasks else {find_task(name).key for name in glue.task}
    # Tasks that can start from MNLI come after it.
    tasks = sorted((TASKS[key] for key in TASKS if key in asked), key=lambda task: task.key in FROM_MNLI)
    recipe = GlueRecipe(encoder, glue, grid, training)
    data = {task.key: recipe.load(task) for task in tasks}
    with open_run_folder(training, (encoder, glue, grid, training)):
        runs = {task.key: recipe.run_task(task, data[task.key]) for task in tasks if task.key != "ax"}
        if training.process_index == 0:
            glue_report.write(recipe.folder)
        if glue.predict:
            for task in tasks:
                recipe.predict(task, data[task.key])
            if training.process_index == 0:
                print(write_submission(recipe.folder / "predictions", recipe.folder / "submission.zip"))
    return runs


class GlueRecipe:
    """The runs of one call of `finetune_glue`, which has the same arguments."""

    def __init__(
        self, encoder: EncoderArguments, glue: GlueArguments, grid: GridArguments, training: TrainingArguments
    ) -> None:
        self.encoder, self.glue, self.training = encoder, glue, training
        self.folder = Path(training.output_dir or ".")
        self.modules = load_sentence_modules(encoder.model, Consent()) if glue.bi_encoder else None
        self.tokenizer: PreTrainedTokenizerBase = (
            AutoTokenizer.from_pretrained(encoder.model) if self.modules is None else self.modules.tokenizer
        )
        longest = self.tokenizer.model_max_length
        if glue.max_seq_length > longest and not glue.bi_encoder:  # a bi-encoder truncates as its model does
            raise ValueError(
                f"max_seq_length={glue.max_seq_length}, but {encoder.model} takes {longest} tokens at most."
            )
        self.step_multiple = training.world_size * training.gradient_accumulation_steps
        if glue.bi_encoder and glue.mnli_init:
            raise ValueError(
                "mnli_init: MNLI has three classes, which a bi_encoder cannot predict: leave one of the two out."
            )
        if training.push_to_hub:
            raise ValueError(
                "push_to_hub: here each task has a model. Publish the ones you want with mobilebert-hf publish "
                f"{self.folder}/TASK/RUN --repo ORG/NAME."
            )
        default = Cell(
            training.per_device_train_batch_size * self.step_multiple,
            training.learning_rate,
            training.num_train_epochs,
            training.seed,
        )
        self.cells = plan(grid, default)
        for cell in self.cells:
            if cell.batch_size % self.step_multiple:
                raise ValueError(
                    f"batch_sizes: {cell.batch_size} examples cannot be divided among {training.world_size} devices "
                    f"and {training.gradient_accumulation_steps} accumulated batches: use a multiple of "
                    f"{self.step_multiple}."
                )

    def load(self, task: GlueTask) -> DatasetDict:
        """The tokenized splits of a task."""
        with self.training.main_process_first(desc=f"loading {task.name}"):
            skipped = self.glue.skipped_rows(self.training.output_dir)
            splits = load_glue(task, self.glue.data, self.glue.holdout, skipped)
            if task.key != "ax" and ("train" not in splits or task.validation_splits[0] not in splits):
                raise ValueError(
                    f"{task.name}: {self.glue.data} has {', '.join(splits)}, but training needs train and "
                    f"{task.validation_splits[0]}. Leave the task out"
                    + (", or set holdout to validate on a share of train." if "train" in splits else ".")
                )
            if self.glue.max_train_samples is not None and "train" in splits:
                count = min(self.glue.max_train_samples, len(splits["train"]))
                splits["train"] = splits["train"].shuffle(seed=0).select(range(count))
            return self.method(task).tokenize(splits)

    def method(self, task: GlueTask) -> CrossEncoder | BiEncoder:
        """The cross-encoder or bi-encoder of a task."""
        if self.modules is not None:
            return BiEncoder(task, self.modules, self.glue.max_seq_length)
        return CrossEncoder(task, self.tokenizer, self.glue.max_seq_length)

    def run_task(self, task: GlueTask, splits: DatasetDict) -> list[Finished]:
        """Runs a task with all settings; the results of finished runs are read."""
        folder = self.folder / task.name
        runs = []
        for number, cell in enumerate(self.cells, 1):
            [run] = broadcast_object_list([read_finished(folder / cell.name)])
            if run is None:
                run = self._run_cell(task, splits, cell, f"{task.name} {number}/{len(self.cells)}")
                if self.training.process_index == 0:
                    write_finished(folder / cell.name, run)
                    self._describe_best(task, keep_best_model(folder))
            runs.append(run)
        return runs

    def _describe_best(self, task: GlueTask, folder: Path) -> None:
        """Writes recipe, facts and card of the best run of a task so far."""
        run = read_finished(folder)
        assert run is not None
        shutil.copyfile(self.folder / RECIPE, folder / RECIPE)
        glue = self.glue
        options = {"bi_encoder": glue.bi_encoder, "held_out": glue.holdout is not None}
        describe_glue_model(task, run.details, self.encoder.model, glue.data, **options).write(folder)
        get_publisher().write_card(ModelRecord.read(folder))

    def _run_cell(self, task: GlueTask, splits: DatasetDict, cell: Cell, name: str) -> Finished:
        started = time.monotonic()
        folder = self.folder / task.name / cell.name
        training = self._arguments(cell, folder)
        set_seed(cell.seed)
        source = copy(self.encoder)
        if self.glue.mnli_init and task.key in FROM_MNLI:
            source.model = str(self.best_folder(TASKS["mnli"]))
        method = self.method(task)
        model = method.load(source, planned_steps(training, len(splits["train"])))
        trainer = method.trainer(model, training, splits)
        if self.glue.early_stopping is not None:
            trainer.add_callback(EarlyStoppingCallback(self.glue.early_stopping))
        show_progress(trainer, name)
        total, learning = count_parameters(model)
        trainer.train(resume_from_checkpoint=find_checkpoint(training))
        decision = method.decide(trainer, splits["train"])
        scores = {
            split: score_glue(
                task, method.answers(trainer.predict(splits[split]).predictions, **decision), splits[split]["label"]
            )
            for split in task.validation_splits
            if split in splits
        }
        method.save(trainer, source.model)
        details = {
            "decision": decision,
            "scores": scores,
            "majority": majority_scores(task, splits),
            "model": source.model,
            "parameters": total,
            "trained_parameters": learning,
            "train_examples": len(splits["train"]),
            "trained_epochs": trainer.state.epoch,
            "seconds": round(time.monotonic() - started, 1),
        }
        return Finished(cell, task_score(task, scores), details)

    def _arguments(self, cell: Cell, folder: Path) -> TrainingArguments:
        training = copy(self.training)
        training.output_dir, training.seed = str(folder), cell.seed
        training.learning_rate, training.num_train_epochs = cell.learning_rate, cell.epochs
        training.per_device_train_batch_size = cell.batch_size // self.step_multiple
        training.resume_from_checkpoint = None
        if self.glue.early_stopping is not None:
            training.eval_strategy, training.save_strategy = IntervalStrategy.EPOCH, SaveStrategy.EPOCH
            training.save_total_limit = 1
            training.load_best_model_at_end = training.greater_is_better = True
            training.metric_for_best_model = "score"
        return training

    def best_folder(self, task: GlueTask) -> Path:
        """The folder of the best run of a task.

        Raises:
            ValueError: No run of the task is finished.
        """
        folder = self.folder / task.name
        best = None
        # The main process reads the folder: the others could miss files that it is still writing.
        if self.training.process_index == 0 and any(folder.glob("*/results.json")):
            best = keep_best_model(folder)
        [best] = broadcast_object_list([best])
        if best is None:
            raise ValueError(f"{folder} has no finished run: add {task.key} to the tasks.")
        return best

    def predict(self, task: GlueTask, splits: DatasetDict) -> None:
        """Predicts those test splits of a task that the data has, with its best model."""
        best = self.best_folder(TASKS["mnli"] if task.key == "ax" else task)
        training = copy(self.training)
        training.output_dir = str(best)
        method = self.method(task)
        trainer = method.trainer(method.load(EncoderArguments(model=str(best)), steps=0), training, splits)
        [run] = broadcast_object_list([read_finished(best)])
        for split, name in zip(task.test_splits, task.test_rows, strict=True):
            if split not in splits:
                logger.warning("%s has no %s split of %s: it is not predicted.", self.glue.data, split, task.name)
                continue
            answers = method.answers(
                trainer.predict(splits[split].remove_columns("label")).predictions, **run.details["decision"]
            )
            if training.process_index == 0:
                write_predictions(task, name, answers, self.folder / "predictions")


def majority_scores(task: GlueTask, splits: DatasetDict) -> dict[str, Any]:
    """The scores, by split, of always predicting the majority class, or the mean, of the training data."""
    labels = np.array(splits["train"]["label"])
    answer = labels.mean() if task.regression else np.bincount(labels).argmax()
    return {
        split: score_glue(task, np.full(len(splits[split]), answer), splits[split]["label"])
        for split in task.validation_splits
        if split in splits
    }
