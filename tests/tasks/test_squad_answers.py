"""The selection of answers against an exhaustive search."""

import json

import numpy as np
import pytest
from datasets import Dataset

from mobilebert_hf.tasks.squad_answers import NOTHING_FOUND, Answers, best_spans, find_answers

CONTEXT = "one two three four five six"
BOUNDS = [(0, 3), (4, 7), (8, 13), (14, 18), (19, 23), (24, 27)]
QUESTION_TOKENS = 4  # [CLS], two of the question, [SEP]


def examples(count=1):
    return Dataset.from_list([{"id": f"q{index}", "context": CONTEXT} for index in range(count)])


def window(example, first, last):
    """A window with the context tokens `first` to `last - 1`."""
    offsets = [place for bounds in BOUNDS[first:last] for place in bounds]
    return {"example": example, "offsets": offsets, "context_start": QUESTION_TOKENS}


def every_span(windows, starts, ends, longest):
    """Scores and texts of all spans, best first."""
    found = {}
    for number, features in enumerate(windows):
        bounds = np.array(features["offsets"]).reshape(-1, 2)
        for i in range(len(bounds)):
            for j in range(i, min(i + longest, len(bounds))):
                score = float(starts[number][QUESTION_TOKENS + i]) + float(ends[number][QUESTION_TOKENS + j])
                text = CONTEXT[bounds[i, 0] : bounds[j, 1]]
                found[text] = max(score, found.get(text, -np.inf))
    return sorted(((score, text) for text, score in found.items()), reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_the_best_spans_of_all_windows(seed):
    rng = np.random.default_rng(seed)
    windows = [window(0, 0, 4), window(0, 2, 6)]
    starts, ends = rng.normal(size=(2, 2, QUESTION_TOKENS + 4 + 1)).astype(np.float32)
    expected = every_span(windows, starts, ends, longest=3)
    features = Dataset.from_list(windows)
    answers = find_answers(examples(), features, starts, ends, version_2=False, n_best=20, max_answer_length=3)
    assert answers.best == {"q0": expected[0][1]}
    found = [(answer["start_logit"] + answer["end_logit"], answer["text"]) for answer in answers.nbest["q0"]]
    assert [text for _, text in found] == [text for _, text in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-6)
    shares = np.exp([score for score, _ in expected])
    probabilities = [answer["probability"] for answer in answers.nbest["q0"]]
    assert probabilities == pytest.approx(shares / shares.sum(), abs=1e-6)
    assert answers.null_odds == {}


def test_the_lowest_no_answer_score_of_all_windows_is_used():
    starts = np.zeros((2, 11), np.float32)
    ends = np.zeros((2, 11), np.float32)
    starts[:, 0] = ends[:, 0] = 3.0, 1.0
    starts[0, 4] = ends[0, 4] = 2.0
    features = Dataset.from_list([window(0, 0, 6), window(0, 0, 6)])
    answers = find_answers(examples(), features, starts, ends, version_2=True)
    assert answers.null_odds == {"q0": pytest.approx((1 + 1) - (2 + 2))}
    assert answers.nbest["q0"][0]["text"] == "one"
    [empty] = [answer for answer in answers.nbest["q0"] if not answer["text"]]
    assert (empty["start_logit"], empty["end_logit"]) == (1.0, 1.0)
    assert answers.predictions() == {"q0": "one"}
    assert answers.predictions(null_threshold=-3.0) == {"q0": ""}


def test_a_question_without_a_valid_span_has_no_answer():
    empty = {"example": 0, "offsets": [], "context_start": 0}
    features = Dataset.from_list([empty, window(1, 0, 6)])
    logits = np.zeros((2, 11), np.float32)
    answers = find_answers(examples(2), features, logits, logits, version_2=True)
    assert answers.best["q0"] == ""
    assert answers.null_odds["q0"] == NOTHING_FOUND
    assert [answer["text"] for answer in answers.nbest["q0"]] == [""]


def test_spans_end_after_their_start_and_are_not_too_long():
    starts, ends = np.arange(6.0), np.arange(6.0)[::-1].copy()
    spans = best_spans(starts, ends, np.array(BOUNDS), n_best=20, max_answer_length=2)
    lengths = [BOUNDS.index((b, CONTEXT.find(" ", b) if " " in CONTEXT[b:] else 27)) for _, _, b, _ in spans]
    assert len(spans) == 11
    assert [start + end for start, end, _, _ in spans] == sorted((s + e for s, e, _, _ in spans), reverse=True)
    assert all(end > begin for _, _, begin, end in spans)
    assert set(lengths) == set(range(6))


def test_the_files_have_the_official_names_and_form(tmp_path):
    nbest = [{"text": "ü", "probability": 1.0, "start_logit": 0.5, "end_logit": 0.25}]
    Answers({"a": "ü"}, {"a": nbest}, {"a": -0.5}).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions.json",
        "nbest_predictions.json",
        "null_odds.json",
    }
    assert json.loads((tmp_path / "predictions.json").read_text()) == {"a": "ü"}
    assert json.loads((tmp_path / "nbest_predictions.json").read_text()) == {"a": nbest}
    assert json.loads((tmp_path / "null_odds.json").read_text()) == {"a": -0.5}


def test_version_1_has_no_null_odds_file(tmp_path):
    Answers({"a": "x"}, {"a": []}, {}).save(tmp_path)
    assert not (tmp_path / "null_odds.json").exists()
