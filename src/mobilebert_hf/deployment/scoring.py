"""Scores the graphs of an export on a task, compared with the PyTorch model in float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import example_lengths
from ..data.labelled import has_split
from ..data.squad import load_squad
from ..files import locked
from ..finetuning.cross_encoder import best_classes
from ..finetuning.methods import find_method
from ..finetuning.squad import SquadArguments, make_features, score_logits
from ..models.fake_quantization import disable_fake_quantization
from ..runs.exports import GraphScores, Manifest, fingerprint, read_manifest, write_manifest
from ..runs.facts import public_name
from ..tasks.glue_data import load_glue, tokenize_glue
from ..tasks.glue_tasks import find_task
from ..tasks.heads import Task
from ..tasks.kinds import KINDS, find_kind, find_recipe, glue_kind, kind_of_model
from ..tasks.labelled_data import ColumnNames, encode, load_examples
from ..tasks.metrics import score_glue
from .check import Run, run_pytorch
from .exporting import find_format
from .student import INPUTS, load_student

BATCH_SIZE = 16

# Outputs by name, one array per example ([seq, ...] or [...]) -> metrics in percent.
Score = Callable[[Mapping[str, list[np.ndarray]]], dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """Tokenized examples of a task, and how their outputs are scored.

    Args:
        inputs: Tokenized examples, one per row.
        score: Computes the metrics from the outputs of all examples.
        task: The task that the model must have, by its pipeline name.
        labels: The number of labels that the model must have.
        split: The evaluated split of the data set.
    """

    inputs: Dataset
    score: Score
    task: str
    labels: int
    split: str


def score_export(
    folder: str | Path,
    task: str | None,
    data: str,
    max_length: int | None = None,
    threads: int = 2,
    columns: ColumnNames = ColumnNames(),  # noqa: B008 - frozen
) -> dict[str, dict[str, float]]:
    """Scores the PyTorch model in float32 and every graph of an export on labelled examples of a task.

    The scores are also saved in `export.json`.

    Args:
        folder: The export folder.
        task: A kind of task such as `"classify"`, a GLUE task such as `"sst2"`, or `"squad"` (v1.1 or v2.0); None: the
            kind of the model (see `kind_of_model`).
        data: For a kind of task, a file of labelled examples, a saved folder or a Hub data set, of which the test or
            validation split is used (see `read_rows`). For GLUE, a Hub data set or a folder in its layout (see
            `load_glue`). For SQuAD, an official file or a Hub data set (see `load_squad`).
        max_length: Maximum number of tokens, of a window for SQuAD and tags. Defaults: 128, for SQuAD 384.
        threads: Number of threads of each runtime.
        columns: The columns of a file of labelled examples.

    Returns:
        Metrics in percent, by graph. The key `"pytorch"` is the PyTorch model.

    Raises:
        FileNotFoundError: The folder or the data does not exist.
        ValueError: The folder is not an export, or the model does not have the head that the task needs.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"Folder {folder} does not exist: expected one written by `mobilebert-hf export`.")
    with locked(folder):
        manifest = read_manifest(folder)
        model, head = _load_exported(folder, manifest)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        task = task or kind_of_model(model.config.to_dict()).name
        recipes: dict[str, Callable[..., Evaluation]] = {
            "glue": _glue,
            "squad": _squad,
            "labelled": partial(_labelled, columns),
        }
        prepare = recipes[find_recipe([task])]
        length = min(max_length or find_kind(task).max_length, model.config.max_position_embeddings)
        evaluation = prepare(task, data, tokenizer, length, model.config)
        if (head.name, model.config.num_labels) != (evaluation.task, evaluation.labels):
            raise ValueError(
                f"{manifest.model} is for {head.name} with {model.config.num_labels} labels; {task} needs "
                f"{evaluation.task} with {evaluation.labels}. Fine-tune a student on {task} and export it."
            )
        runs = {"pytorch": run_pytorch(model)}
        for file in manifest.graphs:
            runs[file] = find_format(Path(file).parts[0]).load(folder / file, head, threads)
        scores = {}
        with Progress(console=Console(stderr=True)) as progress:
            for name, run in runs.items():
                advance = partial(progress.advance, progress.add_task(name, total=len(evaluation.inputs)))
                outputs = predict(run, evaluation.inputs, tokenizer, head.outputs, advance)
                scores[name] = evaluation.score(outputs)
        for file, graph in manifest.graphs.items():
            graph.scores[task] = GraphScores(public_name(data), evaluation.split, scores["pytorch"], scores[file])
        write_manifest(folder, manifest)
    return scores


def _load_exported(folder: Path, manifest: Manifest) -> tuple[PreTrainedModel, Task]:
    """Loads the model that was exported, in float32."""
    source = manifest.model
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise FileNotFoundError(
            f"{folder} was exported from {source}, which does not exist. Export the model again from its new location."
        )
    model, head = load_student(source)
    if fingerprint(model) != manifest.fingerprint:
        raise ValueError(
            f"The weights or the configuration of {source} have changed since the export to {folder}. Export it again "
            "to another folder."
        )
    disable_fake_quantization(model)
    return model, head


def _glue(name: str, data: str, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Any) -> Evaluation:
    task = find_task(name)
    splits = load_glue(task, data)
    split = task.validation_splits[0]
    if split not in splits:
        raise ValueError(f"{data} has no split {split} of {task.name}. Its splits are {', '.join(splits)}.")
    examples = tokenize_glue(splits, tokenizer, max_length)[split]
    # Reorder the logits by label name. If the labels have no names, their order is that of the task.
    names = [config.id2label[index].lower() for index in range(config.num_labels)]
    order = [names.index(label) for label in task.labels] if set(names) == set(task.labels) else slice(None)

    def score(outputs: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
        found = score_glue(task, best_classes(task, np.stack(outputs["logits"])[:, order]), examples["label"])
        return {metric: 100 * (found[metric] or 0.0) for metric in task.metrics}

    return Evaluation(examples, score, glue_kind(task).head.name, len(task.labels) or 1, split)


def _squad(name: str, data: str, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Any) -> Evaluation:
    arguments = SquadArguments(
        [name], max_seq_length=max_length, doc_stride=max_length // 3, max_question_length=min(64, max_length // 4)
    )
    questions = load_squad(data, "validation")
    windows = make_features(questions, tokenizer, arguments, training=False)

    def score(outputs: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
        longest = max(map(len, outputs["start_logits"]))
        starts, ends = (
            np.stack([np.pad(row, (0, longest - len(row))) for row in outputs[name]])
            for name in ("start_logits", "end_logits")
        )
        scores, *_ = score_logits(questions, windows, starts, ends, arguments)
        return {metric: scores[metric] for metric in ("exact_match", "exact", "f1") if metric in scores}

    return Evaluation(windows, score, KINDS["qa"].head.name, 2, "validation")


def _labelled(
    columns: ColumnNames, name: str, data: str, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Any
) -> Evaluation:
    kind, split = find_kind(name), "test" if has_split(data, "test") else "validation"
    if kind is KINDS["pairs"]:  # its labels are those of the model
        found = kind_of_model(config.to_dict())
        kind = replace(kind, label=found.label, metrics=found.metrics)
    names = [config.id2label[index] for index in range(config.num_labels)] if kind.label != "score" else []
    examples = encode(kind, names, load_examples(kind, data, split, columns))
    method = find_method(kind, names, tokenizer, max_length)
    encoded = method.encode(examples)

    def score(outputs: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
        metrics = method.score(encoded, outputs["logits"]).metrics
        shown = [metric for metric in kind.metrics if metric in metrics] or list(metrics)
        return {metric: 100 * (metrics[metric] or 0.0) for metric in shown}

    return Evaluation(encoded.rows, score, kind.head.name, len(names) or 1, split)


def predict(
    run: Run,
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    outputs: tuple[str, ...],
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, list[np.ndarray]]:
    """Runs a graph on all examples in length-bucketed batches.

    Args:
        run: The model or graph.
        examples: Tokenized examples.
        tokenizer: Pads the batches.
        outputs: Names of the outputs to return.
        advance: Called with the batch size after each batch.

    Returns:
        For each output, one array per example, in the order of the examples.
    """
    order = np.argsort(example_lengths(examples), kind="stable")
    columns = examples.select_columns([name for name in INPUTS if name in examples.column_names])
    found: dict[str, list[Any]] = {name: [None] * len(examples) for name in outputs}
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        batch = dict(tokenizer.pad(columns[indices], return_tensors="np"))
        batch.setdefault("token_type_ids", np.zeros_like(batch["input_ids"]))
        results = run(batch)
        for name in outputs:
            for index, value in zip(indices, results[name], strict=True):
                found[name][index] = value
        advance(len(indices))
    return found
