"""From the scores of windows to answers, in the official files' format (the original BERT's `run_squad`)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from ..files import write_aside


@dataclass
class Answers:
    """Answers of all questions, by question id.

    Args:
        best: The best answer that is a text; `""` where there is none.
        nbest: The best answers, best first: `text`, `probability`, `start_logit`, `end_logit`. For v2.0 the empty one
            is among them.
        null_odds: By how much the score of no answer exceeds that of the best text, in logits; v2.0 only.
    """

    best: dict[str, str]
    nbest: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]

    def predictions(self, null_threshold: float = 0.0) -> dict[str, str]:
        """The answers to hand in: none where the null odds are greater than the threshold."""
        silent = {key for key, odds in self.null_odds.items() if odds > null_threshold}
        return {key: "" if key in silent else text for key, text in self.best.items()}

    def save(self, folder: Path, null_threshold: float = 0.0) -> None:
        """Writes `predictions.json`, `nbest_predictions.json` and, for v2.0, `null_odds.json`."""
        files = {"predictions": self.predictions(null_threshold), "nbest_predictions": self.nbest}
        if self.null_odds:
            files["null_odds"] = self.null_odds
        for name, content in files.items():
            write_aside(folder / f"{name}.json", json.dumps(content, indent=4, ensure_ascii=False) + "\n")


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
    """Chooses each question's answers among the spans of all its windows.

    Args:
        examples: Of `load_squad`, n rows.
        features: Of `build_features` for evaluation, m windows.
        start_logits: [m, at least the longest window], float.
        end_logits: Likewise.
        version_2: Whether a question may have no answer.
        n_best: How many starts and ends of a window are looked at, and answers of a question kept.
        max_answer_length: In tokens.
    """
    spans: list[list[tuple[float, float, int, int]]] = [[] for _ in range(len(examples))]
    null_scores = np.full((len(examples), 2), np.inf)
    windows = zip(features["example"], features["offsets"], features["context_start"], strict=True)
    for window, (example, offsets, first) in enumerate(windows):
        starts, ends = start_logits[window].astype(np.float64), end_logits[window].astype(np.float64)
        # The window that speaks least for no answer decides. [CLS] is first where padding is on the right.
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


# The null odds where no span is allowed at all, in place of infinity, which JSON does not have.
NOTHING_FOUND = 1e9


def best_spans(
    starts: np.ndarray, ends: np.ndarray, bounds: np.ndarray, n_best: int, max_answer_length: int
) -> list[tuple[float, float, int, int]]:
    """The spans of a window that begin at one of the best starts and end at one of the best ends.

    Args:
        starts: [n], logits of the context's tokens.
        ends: [n], likewise.
        bounds: [n, 2], where each token begins and ends in the context.
        n_best: How many starts, ends and spans.
        max_answer_length: In tokens.

    Returns:
        Start logit, end logit, first character, and the one after the last; at most n_best, best first.
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
    """The best spans' texts, each once."""
    seen: set[str] = set()
    for start_logit, end_logit, begin, end in sorted(spans, key=lambda span: -(span[0] + span[1])):
        text = context[begin:end]
        if text.strip() and text not in seen and len(seen) < n_best:
            seen.add(text)
            yield {"text": text, "start_logit": start_logit, "end_logit": end_logit}


def _with_probabilities(ranked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ranked = ranked or [{"text": "", "start_logit": 0.0, "end_logit": 0.0}]  # as the original does
    shares = softmax([answer["start_logit"] + answer["end_logit"] for answer in ranked])
    return [
        {"text": answer["text"], "probability": float(share), **answer}
        for answer, share in zip(ranked, shares, strict=True)
    ]
