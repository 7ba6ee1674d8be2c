"""SQuAD scores against those of the official scripts (tests/fixtures/squad/make.py)."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mobilebert_hf.tasks.metrics import load_metric
from mobilebert_hf.tasks.squad_scores import (
    best_null_threshold,
    exact_match,
    f1,
    f1_or_empty,
    normalize_answer,
    squad_scores,
    squad_v2_scores,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "squad" / "scores.json.gz"
OFFICIAL = json.loads(gzip.decompress(FIXTURE.read_bytes()))


def test_answer_scores_equal_the_official_ones():
    for prediction, truth, exact, overlap in OFFICIAL["pairs"]:
        assert exact_match(prediction, truth) == exact
        assert f1_or_empty(prediction, truth) == pytest.approx(overlap, abs=1e-12)
        if normalize_answer(prediction) and normalize_answer(truth):
            assert f1(prediction, truth) == pytest.approx(overlap, abs=1e-12)
        else:
            assert f1(prediction, truth) == 0.0  # v1.1's own definition


def test_dataset_scores_equal_the_official_ones():
    for truths, predictions, odds, threshold, official in OFFICIAL["sets"]:
        assert squad_v2_scores(predictions, truths, odds, threshold) == pytest.approx(official)


def test_version_1_uses_the_best_reference_answer():
    truths = {"a": ["the cat", "a black cat"], "b": ["dog"], "c": ["Norway"]}
    scores = squad_scores({"a": "black cat!", "b": "big dog"}, truths)  # c has no prediction
    assert scores == pytest.approx({"exact_match": 100 / 3, "f1": 100 * (1 + 2 / 3) / 3})


def test_without_null_odds_there_is_no_threshold():
    scores = squad_v2_scores({"a": "x", "b": "y"}, {"a": ["x"], "b": []})
    assert scores["exact"] == 50.0
    assert scores["NoAns_exact"] == 0.0
    assert not any(name.startswith("best") for name in scores)


def test_the_best_threshold_is_no_worse_than_any_other():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = rng.integers(1, 30)
        scores, odds = rng.random(count), rng.normal(size=count)
        answerable, silent = rng.random(count) < 0.5, rng.random(count) < 0.1
        best, _ = best_null_threshold(scores, odds, answerable, silent)
        values = [
            np.where(odds > threshold, ~answerable, np.where(answerable, scores, silent)).mean()
            for threshold in (-np.inf, *odds)
        ]
        assert best == pytest.approx(100 * max(values))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: squad_scores({}, {}), "no questions"),
        (lambda: squad_v2_scores({}, {}), "no questions"),
        (lambda: squad_scores({"a": "x"}, {"a": []}), "'a' has no answer, which v1.1 requires: use squad_v2"),
        (lambda: squad_v2_scores({}, {"a": [], "b": []}), "No prediction for question 'a' and 1 more"),
        (lambda: squad_v2_scores({"a": ""}, {"a": []}, {}), "No null odds for question 'a'"),
    ],
)
def test_invalid_predictions_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_metrics_load_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answers = {"text": ["the cat"], "answer_start": [0]}
    references = [{"id": "a", "answers": answers}]
    predictions = [{"id": "a", "prediction_text": "Cat"}]
    assert load_metric("squad").compute(predictions=predictions, references=references) == {
        "exact_match": 100.0,
        "f1": 100.0,
    }
    predictions[0]["no_answer_probability"] = 0.0
    scores = load_metric("squad_v2").compute(predictions=predictions, references=references)
    assert (scores["exact"], scores["f1"], scores["HasAns_total"]) == (100.0, 100.0, 1)
