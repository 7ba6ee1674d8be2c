"""GLUE scores: the official metrics of each task, and their average as the benchmark's server computes it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from .glue_tasks import TASKS, GlueTask

# The tasks in the server's average: all but the diagnostic set.
AVERAGED = tuple(key for key in TASKS if key != "ax")

Score = float | None


def glue_scores(task: GlueTask, predictions: ArrayLike, references: ArrayLike) -> dict[str, Any]:
    """The official metrics of one task.

    Args:
        task: The task.
        predictions: [n], class indices, or scores for STS-B.
        references: [n], class indices, or scores for STS-B.

    Returns:
        The value of each metric, by name: 0 to 1 for accuracy and F1 (of class 1), -1 to 1 for correlations. A Pearson
        or Spearman correlation with a constant is None. An F1 or Matthews correlation of 0 / 0 is 0 by convention. If
        there are such metrics, `undefined` has the reason for each.

    Raises:
        ValueError: There are no examples, the lengths differ, or a value is invalid for the task.
    """
    predicted, expected = np.asarray(predictions), np.asarray(references)
    if len(predicted) != len(expected) or not len(expected):
        raise ValueError(
            f"{task.name}: {len(predicted)} predictions for {len(expected)} references: expected one each, at least 1."
        )
    for name, values in (("prediction", predicted), ("reference", expected)):
        _check_values(task, name, values)
    scores: dict[str, Any] = {}
    undefined = {}
    for name in task.metrics:
        reason = _why_undefined(name, predicted, expected)
        if reason is not None:
            undefined[name] = reason
            scores[name] = None if task.regression else 0.0
        else:
            scores[name] = float(METRICS[name](predicted, expected))
    return {**scores, "undefined": undefined} if undefined else scores


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda predicted, expected: accuracy_score(expected, predicted),
    "f1": lambda predicted, expected: f1_score(expected, predicted),
    "matthews_correlation": lambda predicted, expected: matthews_corrcoef(expected, predicted),
    "pearson": lambda predicted, expected: pearsonr(predicted, expected).statistic,
    "spearmanr": lambda predicted, expected: spearmanr(predicted, expected).statistic,
}


def _check_values(task: GlueTask, name: str, values: np.ndarray) -> None:
    if task.regression:
        invalid, expected = ~np.isfinite(values.astype(float)), "a finite number"
    else:
        invalid, expected = ~np.isin(values, range(len(task.labels))), f"a class from 0 to {len(task.labels) - 1}"
    if invalid.any():
        index = int(invalid.argmax())
        raise ValueError(f"{task.name}: {name} {index} is {values[index]}: expected {expected}.")


def _why_undefined(metric: str, predicted: np.ndarray, expected: np.ndarray) -> str | None:
    if metric == "f1":
        no_positives = not (predicted == 1).any() and not (expected == 1).any()
        return "neither predictions nor references have a 1; 0 by convention" if no_positives else None
    if metric == "accuracy":
        return None
    convention = "; 0 by convention" if metric == "matthews_correlation" else ""
    if len(expected) < 2 and not convention:
        return "a correlation needs two examples"
    for name, values in (("predictions", predicted), ("references", expected)):
        if (values == values[0]).all():
            return f"all {len(values):,} {name} are {values[0]:g}{convention}"
    return None


def task_score(task: GlueTask, scores: Mapping[str, Mapping[str, Any]]) -> Score:
    """The score of a task, at most 1: the mean of its metrics over all splits.

    Args:
        task: The task.
        scores: Results of `glue_scores` by split.

    Returns:
        The score, or None if a metric is undefined.
    """
    values = [scores[split][metric] for split in scores for metric in task.metrics]
    return None if None in values else float(np.mean(values))


def glue_average(scores: Mapping[str, Score]) -> tuple[Score, str]:
    """The mean score over tasks. It is the GLUE score only if no task is missing.

    Args:
        scores: `task_score` by task key.

    Returns:
        The mean, or None if there are no scores; and a remark, `"GLUE score"` or `"mean of 3 of 9 tasks, ..."`.
    """
    present = [key for key in AVERAGED if scores.get(key) is not None]
    if len(present) == len(AVERAGED):
        remark = "GLUE score"
    else:
        missing = ", ".join(
            TASKS[key].name + (" (undefined)" if key in scores else "") for key in AVERAGED if key not in present
        )
        remark = f"mean of {len(present)} of {len(AVERAGED)} tasks, not the GLUE score; without {missing}"
    return (float(np.mean([scores[key] for key in present])) if present else None), remark
