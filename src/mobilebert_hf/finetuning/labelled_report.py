"""The results of a model on labelled examples: scores, scores of each class, confusion matrix, worst examples."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..files import atomic_write, atomic_write_text
from ..runs.facts import ModelFacts, Source, hub_ids, public_name, recipe_command
from ..tables import Rows, markdown_table, percent
from ..tasks.labelled_data import LabelledData
from .methods import Encoded, Method

RESULTS, REPORT, CONFUSION, WORST = "results.json", "results.md", "confusion.png", "worst_examples.jsonl"
# Above so many classes the picture has no numbers in its cells.
MAX_NUMBERS = 20
# Metrics in the unit of the labels.
IN_UNITS = ("mean_absolute_error",)


def write_results(
    folder: Path,
    method: Method,
    data: LabelledData,
    encoded: Mapping[str, Encoded],
    logits: Mapping[str, Any],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes `results.json`, `results.md`, `worst_examples.jsonl` and, for one class per example, `confusion.png`.

    The scores of each class, the matrix and the worst examples are those of the test examples, if there are any,
    otherwise of the validation examples.

    Args:
        folder: Output folder.
        method: The method of the task, with its thresholds.
        data: The examples.
        encoded: The tokenized examples.
        logits: The logits of each split that is scored.
        more: More content of `results.json`; with `teacher`, the table compares both.

    Returns:
        The content of `results.json`; fractions from 0 to 1.
    """
    scores = {split: method.score(encoded[split], values) for split, values in logits.items()}
    shown = "test" if "test" in scores else "validation"
    mistakes = method.mistakes(encoded[shown], logits[shown])
    results: dict[str, Any] = {
        "task": data.kind.name,
        "examples": {split: len(examples) for split, examples in data.splits.items()},
        "labels": {split: dict(sorted(data.counts(split).items())) for split in data.splits} if data.names else {},
        "scores": {split: found.metrics for split, found in scores.items()},
        "classes": {"split": shown, "scores": dict(scores[shown].classes)},
        "notes": data.notes,
        **more,
    }
    atomic_write_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    lines = [json.dumps(asdict(mistake), ensure_ascii=False) for mistake in mistakes]
    atomic_write_text(folder / WORST, "".join(f"{line}\n" for line in lines))
    confusion = scores[shown].confusion
    if confusion is not None:
        draw_confusion(confusion, method.names, folder / CONFUSION)
    rows = comparison_rows(results) if "teacher" in results else score_rows(results)
    parts = [f"# {data.kind.name}", *data.notes, markdown_table(rows)]
    if results["classes"]["scores"]:
        parts += [f"## Classes, {shown}", markdown_table(class_rows(results["classes"]["scores"]))]
    if confusion is not None:
        parts += [f"## Confusion matrix, {shown}", f"![Expected and predicted classes]({CONFUSION})"]
    worst = [["text", "expected", "predicted", "confidence", "where"]]
    for mistake in mistakes:
        row = (mistake.text, mistake.expected, mistake.predicted, f"{mistake.confidence:.2f}", mistake.where)
        worst.append([" ".join(cell.replace("|", "\\|").split()) for cell in row])
    parts += [f"## Worst examples, {shown}", markdown_table(worst)] if mistakes else []
    atomic_write_text(folder / REPORT, "\n\n".join(parts) + "\n")
    return results


def score_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """The table of the metrics, in percent, with a column for each split."""
    splits = results["scores"]
    metrics = next(iter(splits.values()))
    heading = ["", *(f"{split}, {results['examples'][split]:,} examples" for split in splits)]
    return [heading, *([name, *(_show(name, splits[split][name]) for split in splits)] for name in metrics)]


def comparison_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """The table of teacher and student: parameters, and the metrics of every split in percent."""
    teacher, student = results["teacher"], results["student"]
    sizes = (f"{side['parameters'] / 1e6:.1f}M" for side in (teacher, student))
    rows = [["", "teacher", "student"], ["parameters of the encoder", *sizes]]
    for split, metrics in results["scores"].items():
        for name, value in metrics.items():
            rows.append([f"{split}, {name}", _show(name, teacher["scores"][split][name]), _show(name, value)])
    return rows


def class_rows(classes: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """The table of the classes, the worst first."""
    rows = [["class", "F1", "precision", "recall", "examples"]]
    for name, values in sorted(classes.items(), key=lambda item: (item[1]["f1"], item[0])):
        fractions = (percent(values[metric]) for metric in ("f1", "precision", "recall"))
        rows.append([name, *fractions, f"{int(values['support'] or 0):,}"])
    return rows


def _show(metric: str, value: float | None) -> str:
    return f"{value:.3f}" if metric in IN_UNITS and value is not None else percent(value)


def draw_confusion(counts: np.ndarray, names: tuple[str, ...], path: Path) -> None:
    """Draws a confusion matrix; colors are shares of the expected class.

    Args:
        counts: [expected, predicted].
        names: The names of the classes.
        path: PNG file.
    """
    size = len(names)
    figure = Figure(figsize=(3 + 0.28 * size, 2.6 + 0.26 * size), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=90, fontsize=7)
    axes.set_yticks(range(size), names, fontsize=7)
    axes.set(xlabel="predicted", ylabel="expected")
    if size <= MAX_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=color)
    with atomic_write(path) as staging:
        figure.savefig(staging, dpi=130)


def describe_labelled_model(results: Mapping[str, Any], model: str, train: str) -> ModelFacts:
    """The facts of a model that was fine-tuned on labelled examples.

    Args:
        results: The content of `results.json`.
        model: Hub id or folder of the model before fine-tuning.
        train: File or Hub dataset of the training examples.
    """
    rows: Rows = score_rows(results) if results else ()
    return ModelFacts(
        summary=f"{{source}}, fine-tuned on {public_name(train)}.",
        source=Source.of("base", model),
        datasets=hub_ids([train]),
        results=tuple(tuple(row) for row in rows),
        results_note="In percent. The epoch was chosen by the validation examples, whose scores are therefore "
        "optimistic.",
        command=recipe_command("finetune"),
    )


def describe_task_student(results: Mapping[str, Any], teacher: str, data: str) -> ModelFacts:
    """The facts of a student with the head of its teacher.

    Args:
        results: The content of `results.json`.
        teacher: Hub id or folder of the teacher.
        data: File or Hub dataset of the texts.
    """
    return ModelFacts(
        summary=f"A MobileBERT student of {{source}} with the same head and labels, distilled on {public_name(data)}.",
        source=Source.of("teacher", teacher),
        datasets=hub_ids([data]),
        results=tuple(tuple(row) for row in comparison_rows(results)),
        results_note="In percent. The epoch was chosen by the validation examples, whose scores are therefore "
        "optimistic.",
        command=recipe_command("distill"),
    )
