"""Finds SQuAD answers from the logits of windows, and writes the files of the original BERT's `run_squad`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from ..data.edges import visible
from ..files import atomic_write_text


@dataclass
class Answers:
    """Answers by question id.

    Args:
        best: The best non-empty answer, or `""` if there is none.
        nbest: The best answers, best first: `text`, `probability`, `start_logit`, `end_logit`. For v2.0 they include
            the empty answer.
        null_odds: Score of no answer minus score of the best non-empty answer, in logits; only for v2.0.
    """

    best: dict[str, str]
    nbest: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]

    def predictions(self, null_threshold: float = 0.0) -> dict[str, str]:
        """The final answers: `""` if the null odds exceed the threshold, the best answer otherwise."""
        return {
            key: "" if self.null_odds.get(key, -np.inf) > null_threshold else text for key, text in self.best.items()
        }

    def save(self, folder: Path, null_threshold: float = 0.0) -> None:
        """Writes `predictions.json`, `nbest_predictions.json` and, for v2.0, `null_odds.json`."""
        files = {"predictions": self.predictions(null_threshold), "nbest_predictions": self.nbest}
        if self.null_odds:
            files["null_odds"] = self.null_odds
        for name, content in files.items():
            atomic_write_text(folder / f"{name}.json", json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def find_answers(
    examples: Dataset,
    features: Dataset,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    *,
    version_2: bool,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> Answers:
    """Selects the best answers of each question among the spans of all its windows.

    Args:
        examples: Dataset from `load_squad`, n questions.
        features: Dataset from `build_features` for evaluation, m windows.
        start_logits: [m, seq], float; seq is at least the length of the longest window.
        end_logits: [m, seq], float.
        version_2: Whether questions may have no answer.
        n_best: Number of start and end positions to consider per window, and of answers per question.
        max_answer_length: Maximum number of tokens of an answer.
    """
    spans: list[list[tuple[float, float, int, int]]] = [[] for _ in range(len(examples))]
    null_scores = np.full((len(examples), 2), np.inf)
    windows = zip(features["example"], features["offsets"], features["context_start"], strict=True)
    for window, (example, offsets, first) in enumerate(windows):
        starts, ends = start_logits[window].astype(np.float64), end_logits[window].astype(np.float64)
        # The lowest no-answer score of all windows is used. [CLS] is the first token with padding on the right.
        if starts[0] + ends[0] < null_scores[example].sum():
            null_scores[example] = starts[0], ends[0]
        bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        inside = slice(first, first + len(bounds))
        spans[example] += best_spans(starts[inside], ends[inside], bounds, n_best, max_answer_length)
    answers = Answers({}, {}, {})
    columns = zip(examples["id"], examples["context"], spans, null_scores, strict=True)
    for identifier, context, found, null in columns:
        ranked = list(_rank(context, found, n_best))
        answers.best[identifier] = ranked[0]["text"] if ranked else ""
        if version_2:
            best = ranked[0]["start_logit"] + ranked[0]["end_logit"] if ranked else -np.inf
            answers.null_odds[identifier] = float(null.sum() - best) if ranked else NOTHING_FOUND
            ranked.append({"text": "", "start_logit": float(null[0]), "end_logit": float(null[1])})
            ranked.sort(key=lambda answer: -answer["start_logit"] - answer["end_logit"])
        answers.nbest[identifier] = _with_probabilities(ranked[:n_best])
    return answers


# Null odds of questions without a valid span. JSON has no infinity.
NOTHING_FOUND = 1e9


def best_spans(
    starts: np.ndarray, ends: np.ndarray, bounds: np.ndarray, n_best: int, max_answer_length: int
) -> list[tuple[float, float, int, int]]:
    """The best spans of a window, with one of the best start positions and one of the best end positions.

    Args:
        starts: [n], start logits of the context's tokens.
        ends: [n], end logits.
        bounds: [n, 2], start and end of each token in the context, in characters.
        n_best: Maximum number of start positions, end positions and spans.
        max_answer_length: Maximum number of tokens of a span.

    Returns:
        At most `n_best` spans, best first: start logit, end logit, start and end in the context, in characters.
    """
    first, last = (np.argsort(-logits, kind="stable")[:n_best] for logits in (starts, ends))
    lengths = last[None, :] - first[:, None] + 1
    rows, columns = np.nonzero((lengths > 0) & (lengths <= max_answer_length))
    first, last = first[rows], last[columns]
    order = np.argsort(-(starts[first] + ends[last]), kind="stable")[:n_best]
    return [
        (float(starts[i]), float(ends[j]), int(bounds[i, 0]), int(bounds[j, 1]))
        for i, j in zip(first[order], last[order], strict=True)
    ]


def _rank(context: str, spans: list[tuple[float, float, int, int]], n_best: int) -> Iterator[dict[str, Any]]:
    """The answers of the best spans, without duplicates."""
    seen: set[str] = set()
    for start_logit, end_logit, begin, end in sorted(spans, key=lambda span: -(span[0] + span[1])):
        text = context[slice(*visible(context, begin, end))]
        if text and text not in seen and len(seen) < n_best:
            seen.add(text)
            yield {"text": text, "start_logit": start_logit, "end_logit": end_logit}


def _with_probabilities(ranked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ranked = ranked or [{"text": "", "start_logit": 0.0, "end_logit": 0.0}]  # as in the original code
    probabilities = softmax([answer["start_logit"] + answer["end_logit"] for answer in ranked])
    return [
        {"text": answer["text"], "probability": float(probability), **answer}
        for answer, probability in zip(ranked, probabilities, strict=True)
    ]
