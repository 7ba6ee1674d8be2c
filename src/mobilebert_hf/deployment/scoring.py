"""What an export costs on a real task: the scores of its graphs beside those of the PyTorch model in float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import example_lengths
from ..data.squad import load_squad
from ..files import locked
from ..finetuning.cross_encoder import best_classes
from ..finetuning.squad import SquadArguments, make_features, score_logits
from ..models.fake_quantization import disable_fake_quantization
from ..runs.exports import GraphScores, Manifest, fingerprint, read_manifest, write_manifest
from ..runs.facts import public_name
from ..tasks.glue_data import load_glue, tokenize_glue
from ..tasks.glue_tasks import find_task
from ..tasks.heads import CLASSIFICATION, QUESTION_ANSWERING, Task
from ..tasks.metrics import score_glue
from .check import Run, run_pytorch
from .exporting import find_format
from .student import INPUTS, load_student

SQUAD = "squad"
# Texts in a batch; their lengths are alike.
ROWS = 16

# From each output's values, an array a text [tokens, ...] or [...], to the metrics in percent.
Score = Callable[[Mapping[str, list[np.ndarray]]], dict[str, float]]


@dataclass(frozen=True)
class Examination:
    """What is asked, and how answers are scored.

    Args:
        inputs: A row a text, as the tokenizer gives them.
        score: From the outputs of all rows to metrics.
        task: The pipeline's name that a model must be for.
        labels: How many labels it must have.
        split: Of the data set, that is asked.
    """

    inputs: Dataset
    score: Score
    task: str
    labels: int
    split: str


def score_export(
    folder: str | Path, task: str, data: str, max_length: int | None = None, threads: int = 2
) -> dict[str, dict[str, float]]:
    """Scores the PyTorch model in float32 and every graph of an export on a task's validation examples.

    The scores go into the export's manifest, `export.json`, too.

    Args:
        folder: The export's.
        task: A GLUE task, as `"sst2"`, or `"squad"`.
        data: For GLUE a Hub data set or a folder in its layout (see `load_glue`); for SQuAD, v1.1 or v2.0, an
            official file or a Hub data set (see `load_squad`).
        max_length: Tokens of a text, or of a window of question and context; by default 128 and 384.
        threads: For each runtime.

    Returns:
        Metrics in percent, by graph; the PyTorch model's are under `"pytorch"`.

    Raises:
        FileNotFoundError: The folder is not there, or the data.
        ValueError: The folder holds no export, or the model has not the head that the task needs.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: name one that `mobilebert-hf export` wrote.")
    with locked(folder):
        manifest = read_manifest(folder)
        model, head = _load_exported(folder, manifest)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        make, length = (_squad, 384) if task == SQUAD else (_glue, 128)
        length = min(max_length or length, model.config.max_position_embeddings)
        examination = make(task, data, tokenizer, length, model.config)
        if (head.name, model.config.num_labels) != (examination.task, examination.labels):
            raise ValueError(
                f"{manifest.model} is for {head.name} with {model.config.num_labels} labels; {task} needs "
                f"{examination.task} with {examination.labels}: fine-tune a student on {task}, and export that."
            )
        runs = {"pytorch": run_pytorch(model)}
        for file in manifest.graphs:
            runs[file] = find_format(Path(file).parts[0]).load(folder / file, head, threads)
        scores = {}
        with Progress(console=Console(stderr=True)) as progress:
            for name, run in runs.items():
                advance = partial(progress.advance, progress.add_task(name, total=len(examination.inputs)))
                outputs = run_all(run, examination.inputs, tokenizer, head.outputs, advance)
                scores[name] = examination.score(outputs)
        where = public_name(data), examination.split
        for file, graph in manifest.graphs.items():
            graph.scores[task] = GraphScores(*where, scores["pytorch"], scores[file])
        write_manifest(folder, manifest)
    return scores


def _load_exported(folder: Path, manifest: Manifest) -> tuple[PreTrainedModel, Task]:
    """The student that an export was made of, in float32."""
    place = manifest.model
    if Path(place).is_absolute() and not Path(place).is_dir():
        raise FileNotFoundError(
            f"{folder} was exported from {place}, which is not there: export anything from where it is now."
        )
    model, head = load_student(place)
    if fingerprint(model) != manifest.fingerprint:
        raise ValueError(
            f"{place} has other weights, or another configuration, than when {folder} was exported: export it anew, "
            "into another folder."
        )
    disable_fake_quantization(model)
    return model, head


def _glue(name: str, data: str, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Any) -> Examination:
    task = find_task(name)
    splits = load_glue(task, data)
    split = task.validation_splits[0]
    if split not in splits:
        raise ValueError(f"{data} has no {split} split of {task.name}, but {', '.join(splits)}.")
    examples = tokenize_glue(splits, tokenizer, max_length)[split]
    # Students may have the classes in another order; where they have no names, it is the task's.
    names = [config.id2label[index].lower() for index in range(config.num_labels)]
    order = [names.index(label) for label in task.labels] if set(names) == set(task.labels) else slice(None)

    def score(outputs: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
        found = score_glue(task, best_classes(task, np.stack(outputs["logits"])[:, order]), examples["label"])
        return {metric: 100 * (found[metric] or 0.0) for metric in task.metrics}

    return Examination(examples, score, CLASSIFICATION.name, len(task.labels) or 1, split)


def _squad(name: str, data: str, tokenizer: PreTrainedTokenizerBase, max_length: int, config: Any) -> Examination:
    arguments = SquadArguments(
        max_seq_length=max_length, doc_stride=max_length // 3, max_question_length=min(64, max_length // 4)
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

    return Examination(windows, score, QUESTION_ANSWERING.name, 2, "validation")


def run_all(
    run: Run,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    outputs: tuple[str, ...],
    done: Callable[[int], object] = lambda rows: None,
) -> dict[str, list[np.ndarray]]:
    """Runs texts of like length together, so that hardly any padding is computed.

    Args:
        run: The model or graph.
        rows: Tokenized texts.
        tokenizer: Pads them.
        outputs: Names of what is wanted.
        done: Called with the number of rows after each batch.

    Returns:
        For each output an array a row, in the order of the rows.
    """
    order = np.argsort(example_lengths(rows), kind="stable")
    columns = rows.select_columns([name for name in INPUTS if name in rows.column_names])
    found: dict[str, list[Any]] = {name: [None] * len(rows) for name in outputs}
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        batch = dict(tokenizer.pad(columns[chosen], return_tensors="np"))
        batch.setdefault("token_type_ids", np.zeros_like(batch["input_ids"]))
        results = run(batch)
        for name in outputs:
            for place, value in zip(chosen, results[name], strict=True):
                found[name][place] = value
        done(len(chosen))
    return found
