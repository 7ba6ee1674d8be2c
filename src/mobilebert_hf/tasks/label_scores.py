"""Metrics of the kinds of tasks, scores of each class, and thresholds of labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from .entities import entity_scores, is_scheme

# Of a query only the first passages count.
CUTOFF = 10


class Scores(NamedTuple):
    """The scores of a model on labelled examples.

    Args:
        metrics: Values by name: 0 to 1, correlations -1 to 1, errors in the unit of the labels. None if undefined.
        classes: `precision`, `recall`, `f1` and `support` by class, if there are classes.
        confusion: Counts [expected, predicted] of the classes, for one class per example.
    """

    metrics: dict[str, float | None]
    classes: Mapping[str, Mapping[str, float]] = {}
    confusion: np.ndarray | None = None


def class_scores(predicted: np.ndarray, expected: np.ndarray, names: Sequence[str]) -> Scores:
    """Accuracy and macro-F1, over the classes that occur, of class indices [n]."""
    metrics: dict[str, float | None] = {
        "accuracy": float(accuracy_score(expected, predicted)),
        "macro_f1": float(f1_score(expected, predicted, average="macro", zero_division=0)),
    }
    indices = range(len(names))
    confusion = confusion_matrix(expected, predicted, labels=indices)
    return Scores(metrics, _by_class(predicted, expected, names, labels=indices), confusion)


def set_scores(predicted: np.ndarray, expected: np.ndarray, names: Sequence[str]) -> Scores:
    """Macro-F1 over all labels and micro-F1, of bool [n, labels]."""
    metrics: dict[str, float | None] = {
        f"{average}_f1": float(f1_score(expected, predicted, average=average, zero_division=0))
        for average in ("macro", "micro")
    }
    return Scores(metrics, _by_class(predicted, expected, names))


def number_scores(predicted: np.ndarray, expected: np.ndarray) -> Scores:
    """Correlations, None with a constant, and the mean absolute error, of numbers [n]."""
    is_defined = len(expected) > 1 and np.ptp(predicted) > 0 and np.ptp(expected) > 0
    return Scores(
        {
            "spearman": float(spearmanr(predicted, expected).statistic) if is_defined else None,
            "pearson": float(pearsonr(predicted, expected).statistic) if is_defined else None,
            "mean_absolute_error": float(np.abs(predicted - expected).mean()),
        }
    )


def ranking_scores(predicted: np.ndarray, expected: np.ndarray, queries: Sequence[str]) -> Scores:
    """Mean reciprocal rank and nDCG of the first 10 passages, over queries with a relevant passage.

    Args:
        predicted: The scores of the passages, [n].
        expected: Their relevance, 0 or more, [n].
        queries: The query of each passage.
    """
    groups: dict[str, list[int]] = {}
    for index, query in enumerate(queries):
        groups.setdefault(query, []).append(index)
    ranks, gains = [], []
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    for rows in groups.values():
        # Equal scores count as the worst order.
        order = sorted(rows, key=lambda row: (-predicted[row], expected[row]))
        relevance = np.array([expected[row] for row in order])[:CUTOFF]
        ideal = np.sort(expected[rows])[::-1][:CUTOFF]
        if ideal[0] <= 0:
            continue
        hits = np.flatnonzero(relevance > 0)
        ranks.append(1 / (hits[0] + 1) if len(hits) else 0.0)
        gains.append(float(relevance @ discounts[: len(relevance)]) / float(ideal @ discounts[: len(ideal)]))
    return Scores({"mrr": float(np.mean(ranks)) if ranks else None, "ndcg": float(np.mean(gains)) if gains else None})


def tag_scores(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]], names: Sequence[str]) -> Scores:
    """Scores of whole entities, and the accuracy of the tags; for tags without entities the accuracy alone.

    Args:
        predicted: The tags of each sentence.
        expected: Those of the data, with the same lengths.
        names: All tags.
    """
    index = {name: position for position, name in enumerate(names)}
    one, other = (np.array([index[tag] for tags in part for tag in tags]) for part in (predicted, expected))
    accuracy = float((one == other).mean())
    if not is_scheme(names):
        return Scores({"accuracy": accuracy}, _by_class(one, other, names, labels=range(len(names))))
    found = entity_scores(predicted, expected)
    classes = found.pop("types")
    return Scores({**found, "accuracy": accuracy}, classes)


def _by_class(predicted: Any, expected: Any, names: Sequence[str], **options: Any) -> dict[str, dict[str, float]]:
    values = precision_recall_fscore_support(expected, predicted, average=None, zero_division=0, **options)
    rows = zip(*(column.tolist() for column in values), strict=True)
    return {
        name: dict(zip(("precision", "recall", "f1", "support"), row, strict=True))
        for name, row in zip(names, rows, strict=True)
    }


def best_thresholds(logits: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The logit of each label above which it is predicted, with the best F1 of the label.

    Halfway between two logits, the nearest to 0 of equals. A label without an example, or with an F1 of 0, has 0.

    Args:
        logits: [n, labels].
        expected: bool [n, labels].

    Returns:
        float [labels].
    """
    thresholds = np.zeros(logits.shape[1])
    for label in range(logits.shape[1]):
        order = np.argsort(-logits[:, label], kind="stable")
        values, hits = logits[order, label], expected[order, label].cumsum()
        if not hits[-1]:
            continue
        scores = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
        # Between equal logits there is no threshold.
        ends = np.append(values[1:] < values[:-1], True)
        below = np.append(values[1:], values[-1] - 1)
        middles = (values + below) / 2
        best = np.flatnonzero(ends & (scores >= scores[ends].max() - 1e-12))
        thresholds[label] = middles[best[np.abs(middles[best]).argmin()]]
    return thresholds
