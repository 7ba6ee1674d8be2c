"""Exact match and F1 of SQuAD v1.1 and v2.0 in percent, as in the official scripts.

Rajpurkar et al. (2016), arXiv 1606.05250, and Rajpurkar et al. (2018), arXiv 1806.03822.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import List, Value

# Columns of the predictions and references of the `evaluate` metrics.
PREDICTION = {"id": Value("string"), "prediction_text": Value("string")}
REFERENCE = {"id": Value("string"), "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))}}

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lowercases, and removes ASCII punctuation, English articles and redundant white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> float:
    """1 if both are equal after normalization, otherwise 0."""
    return float(normalize_answer(prediction) == normalize_answer(truth))


def f1(prediction: str, truth: str) -> float:
    """F1 over normalized words (definition of v1.1)."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(truth).split()
    common = (Counter(predicted) & Counter(expected)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def f1_or_empty(prediction: str, truth: str) -> float:
    """Like `f1`, but 1 if both are empty after normalization (definition of v2.0)."""
    if normalize_answer(prediction) and normalize_answer(truth):
        return f1(prediction, truth)
    return exact_match(prediction, truth)


def squad_scores(predictions: Mapping[str, str], truths: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Computes the scores of SQuAD v1.1.

    Args:
        predictions: Answer by question id. A missing answer scores 0.
        truths: Reference answers by question id, at least one for each question.

    Returns:
        `exact_match` and `f1`, means over all questions, in percent.

    Raises:
        ValueError: There are no questions, or a question has no reference answer.
    """
    if not truths:
        raise ValueError("There are no questions to score.")
    for identifier, answers in truths.items():
        if not answers:
            raise ValueError(f"Question {identifier!r} has no answer, which v1.1 requires: use squad_v2.")
    pairs = [(predictions[identifier], answers) for identifier, answers in truths.items() if identifier in predictions]
    totals = {
        "exact_match": sum(max(exact_match(text, answer) for answer in answers) for text, answers in pairs),
        "f1": sum(max(f1(text, answer) for answer in answers) for text, answers in pairs),
    }
    return {name: 100 * total / len(truths) for name, total in totals.items()}


def squad_v2_scores(
    predictions: Mapping[str, str],
    truths: Mapping[str, Sequence[str]],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, Any]:
    """Computes the scores of SQuAD v2.0.

    Args:
        predictions: Answer by question id, `""` for no answer.
        truths: Reference answers by question id; none if the question has no answer.
        null_odds: Score of no answer by question id. Without it, no threshold is applied.
        threshold: Questions with larger null odds count as not answered.

    Returns:
        `exact`, `f1` and `total` of all questions; the same with `HasAns_` and `NoAns_` for questions with and without
        an answer, if there are any; and, with `null_odds`, `best_exact`, `best_exact_thresh`, `best_f1` and
        `best_f1_thresh`: the scores with the best threshold. Scores are in percent.

    Raises:
        ValueError: There are no questions, or a prediction or its null odds are missing.
    """
    if not truths:
        raise ValueError("There are no questions to score.")
    for name, mapping in (("prediction", predictions), ("null odds", null_odds)):
        missing = [identifier for identifier in truths if mapping is not None and identifier not in mapping]
        if missing:
            raise ValueError(f"No {name} for question {missing[0]!r} and {len(missing) - 1} more: each needs one.")
    references = {key: [text for text in texts if normalize_answer(text)] or [""] for key, texts in truths.items()}
    answerable = np.array([bool(texts) for texts in truths.values()])
    abstains = np.array([null_odds is not None and null_odds[identifier] > threshold for identifier in truths])
    results: dict[str, Any] = {}
    raw = {}
    for name, score in (("exact", exact_match), ("f1", f1_or_empty)):
        raw[name] = np.array(
            [max(score(predictions[key], text) for text in texts) for key, texts in references.items()]
        )
    for prefix, subset in (("", answerable | True), ("HasAns_", answerable), ("NoAns_", ~answerable)):
        if subset.any():
            for name, values in raw.items():
                results[prefix + name] = 100 * float(np.where(abstains, ~answerable, values)[subset].mean())
            results[prefix + "total"] = int(subset.sum())
    if null_odds is not None:
        # In the order of `null_odds`, by which the official script breaks ties.
        indices = {identifier: index for index, identifier in enumerate(truths)}
        order = [indices[identifier] for identifier in null_odds if identifier in indices]
        odds = np.array([null_odds[identifier] for identifier in truths])[order]
        empty = np.array([not predictions[identifier] for identifier in truths])[order]
        for name, values in raw.items():
            best = best_null_threshold(values[order], odds, answerable[order], empty)
            results[f"best_{name}"], results[f"best_{name}_thresh"] = best
    return results


def best_null_threshold(
    scores: np.ndarray, odds: np.ndarray, answerable: np.ndarray, empty: np.ndarray
) -> tuple[float, float]:
    """Finds the null-odds threshold with the best mean score, by the search of the official script.

    Args:
        scores: [n], float, score of each prediction from 0 to 1.
        odds: [n], float, null odds.
        answerable: [n], bool, whether the question has an answer.
        empty: [n], bool, whether the prediction is empty.

    Returns:
        The best mean score in percent, and the threshold; 0.0 if it is best to answer no question.
    """
    order = np.argsort(odds, kind="stable")
    # With increasing threshold, questions are answered one by one. An unanswerable one loses its point then, unless
    # its prediction is empty.
    gains = np.where(answerable, scores, np.where(empty, 0.0, -1.0))[order]
    totals = (~answerable).sum() + np.cumsum(gains)
    index = int(totals.argmax())
    best, threshold = float(totals[index]), float(odds[order][index])
    if best <= (~answerable).sum():
        best, threshold = float((~answerable).sum()), 0.0
    return 100 * best / len(scores), threshold
