"""GLUE's scores: of one task as its official metrics, of all tasks as the benchmark's server averages them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from .glue_tasks import TASKS, GlueTask

# What the server averages: every task but the diagnostic set.
AVERAGED = tuple(key for key in TASKS if key != "ax")

Score = float | None


def glue_scores(task: GlueTask, predictions: ArrayLike, references: ArrayLike) -> dict[str, Any]:
    """The official metrics of one task.

    Args:
        task: The task.
        predictions: [n], indices of classes, or scores for STS-B.
        references: [n], likewise.

    Returns:
        From the name of each metric of the task to its value: shares of 1 for accuracy and F1 (of class 1), -1 to 1
        for the correlations. Where a metric has no value (a correlation with something constant), None; where its
        value is one only by convention (an F1 or Matthews correlation that divides 0 by 0 is 0), 0. `undefined` then
        says, for each such metric, why; it is absent otherwise.

    Raises:
        ValueError: There are no examples, not as many predictions as references, or a value is not the task's.
    """
    predicted, expected = np.asarray(predictions), np.asarray(references)
    if len(predicted) != len(expected) or not len(expected):
        raise ValueError(
            f"{task.name}: {len(predicted)} predictions for {len(expected)} references: expected one each."
        )
    for what, values in (("prediction", predicted), ("reference", expected)):
        _check_values(task, what, values)
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


def _check_values(task: GlueTask, what: str, values: np.ndarray) -> None:
    if task.regression:
        wrong, expected = ~np.isfinite(values.astype(float)), "a finite number"
    else:
        wrong, expected = ~np.isin(values, range(len(task.labels))), f"a class from 0 to {len(task.labels) - 1}"
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(f"{task.name}: {what} {place} is {values[place]}: expected {expected}.")


def _why_undefined(metric: str, predicted: np.ndarray, expected: np.ndarray) -> str | None:
    if metric == "f1":
        nowhere = not (predicted == 1).any() and not (expected == 1).any()
        return "neither predictions nor references have a 1; 0 by convention" if nowhere else None
    if metric == "accuracy":
        return None
    convention = "; 0 by convention" if metric == "matthews_correlation" else ""
    if len(expected) < 2 and not convention:
        return "a correlation needs two examples"
    for what, values in (("predictions", predicted), ("references", expected)):
        if (values == values[0]).all():
            return f"all {len(values):,} {what} are {values[0]:g}{convention}"
    return None


def task_score(task: GlueTask, scores: Mapping[str, Mapping[str, Any]]) -> Score:
    """One number for a task, a share of 1: the mean of its metrics on each split, and of its splits.

    Args:
        task: The task.
        scores: From split to what `glue_scores` returned.

    Returns:
        None where a metric has no value.
    """
    values = [scores[split][metric] for split in scores for metric in task.metrics]
    return None if None in values else float(np.mean(values))


def glue_average(scores: Mapping[str, Score]) -> tuple[Score, str]:
    """The mean over tasks, and what it is of: the GLUE score only where every task is there.

    Args:
        scores: From task key to `task_score`.

    Returns:
        The mean, None where there is no score to take it of; and a remark, such as `"GLUE score"` or `"mean of 3 of
        9 tasks; without SST-2, ..."`.
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
