"""Exact match and F1 of SQuAD v1.1 and v2.0, as the official scripts define them.

Rajpurkar et al. (2016), arXiv 1606.05250, and Rajpurkar et al. (2018), arXiv 1806.03822. All scores are percentages.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import List, Value

# The columns of the metrics' predictions and references.
PREDICTION = {"id": Value("string"), "prediction_text": Value("string")}
REFERENCE = {"id": Value("string"), "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))}}

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> float:
    """1 where both are the same after normalisation, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(truth))


def f1(prediction: str, truth: str) -> float:
    """Harmonic mean of precision and recall over normalised words; 0 where they share none (v1.1's definition)."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(truth).split()
    common = (Counter(predicted) & Counter(expected)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def f1_or_empty(prediction: str, truth: str) -> float:
    """As `f1`; two texts of which one is empty after normalisation agree where both are (v2.0's definition)."""
    if normalize_answer(prediction) and normalize_answer(truth):
        return f1(prediction, truth)
    return exact_match(prediction, truth)


def squad_scores(predictions: Mapping[str, str], truths: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The scores of SQuAD v1.1.

    Args:
        predictions: From question id to answer; a question without one scores 0.
        truths: From question id to the answers that people gave, at least one.

    Returns:
        `exact_match` and `f1`, means over all questions, in percent.

    Raises:
        ValueError: There are no questions, or one without an answer; names it.
    """
    if not truths:
        raise ValueError("There are no questions to score.")
    for identifier, answers in truths.items():
        if not answers:
            raise ValueError(f"Question {identifier!r} has no answer: v1.1 wants one; score it with squad_v2.")
    given = [(predictions[identifier], answers) for identifier, answers in truths.items() if identifier in predictions]
    totals = {
        "exact_match": sum(max(exact_match(text, answer) for answer in answers) for text, answers in given),
        "f1": sum(max(f1(text, answer) for answer in answers) for text, answers in given),
    }
    return {name: 100 * total / len(truths) for name, total in totals.items()}


def squad_v2_scores(
    predictions: Mapping[str, str],
    truths: Mapping[str, Sequence[str]],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, Any]:
    """The scores of SQuAD v2.0.

    Args:
        predictions: From question id to answer, `""` for none.
        truths: From question id to the answers that people gave; none where the question has no answer.
        null_odds: From question id to how much speaks for no answer; without them nothing is thresholded.
        threshold: Answers of questions with greater odds count as none.

    Returns:
        `exact`, `f1` and `total` of all questions; the same with `HasAns_` and `NoAns_` for those with and without an
        answer, where there are any; and, with `null_odds`, `best_exact`, `best_exact_thresh`, `best_f1` and
        `best_f1_thresh`: what the best threshold would have given. Scores in percent.

    Raises:
        ValueError: There are no questions, or a prediction or its odds are missing.
    """
    if not truths:
        raise ValueError("There are no questions to score.")
    for what, given in (("prediction", predictions), ("null odds", null_odds)):
        missing = [identifier for identifier in truths if given is not None and identifier not in given]
        if missing:
            raise ValueError(f"No {what} for question {missing[0]!r} and {len(missing) - 1} more: one each is needed.")
    golds = {key: [text for text in texts if normalize_answer(text)] or [""] for key, texts in truths.items()}
    answerable = np.array([bool(texts) for texts in truths.values()])
    abstains = np.array([null_odds is not None and null_odds[identifier] > threshold for identifier in truths])
    results: dict[str, Any] = {}
    raw = {}
    for name, score in (("exact", exact_match), ("f1", f1_or_empty)):
        raw[name] = np.array([max(score(predictions[key], text) for text in texts) for key, texts in golds.items()])
    for prefix, chosen in (("", answerable | True), ("HasAns_", answerable), ("NoAns_", ~answerable)):
        if chosen.any():
            for name, values in raw.items():
                results[prefix + name] = 100 * float(np.where(abstains, ~answerable, values)[chosen].mean())
            results[prefix + "total"] = int(chosen.sum())
    if null_odds is not None:
        # In the order of the odds, as the official script breaks ties.
        places = {identifier: place for place, identifier in enumerate(truths)}
        order = [places[identifier] for identifier in null_odds if identifier in places]
        odds = np.array([null_odds[identifier] for identifier in truths])[order]
        silent = np.array([not predictions[identifier] for identifier in truths])[order]
        for name, values in raw.items():
            best = best_null_threshold(values[order], odds, answerable[order], silent)
            results[f"best_{name}"], results[f"best_{name}_thresh"] = best
    return results


def best_null_threshold(
    scores: np.ndarray, odds: np.ndarray, answerable: np.ndarray, silent: np.ndarray
) -> tuple[float, float]:
    """The threshold above which to give no answer, by the official search over the odds that occur.

    Args:
        scores: [n], each prediction's score, from 0 to 1.
        odds: [n], how much speaks for no answer.
        answerable: [n], whether the question has an answer.
        silent: [n], whether the prediction is empty.

    Returns:
        The mean score in percent with this threshold, and the threshold; 0.0 where never answering is best.
    """
    order = np.argsort(odds, kind="stable")
    # Going up, each question begins to be answered: one that has no answer is lost then, unless the answer is empty.
    gains = np.where(answerable, scores, np.where(silent, 0.0, -1.0))[order]
    totals = (~answerable).sum() + np.cumsum(gains)
    place = int(totals.argmax())
    best, threshold = float(totals[place]), float(odds[order][place])
    if best <= (~answerable).sum():
        best, threshold = float((~answerable).sum()), 0.0
    return 100 * best / len(scores), threshold
