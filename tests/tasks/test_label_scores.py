"""Metrics of the kinds of tasks, beside scikit-learn and seqeval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from mobilebert_hf.tasks.entities import entity_scores, find_entities, is_scheme
from mobilebert_hf.tasks.label_scores import (
    best_thresholds,
    class_scores,
    number_scores,
    ranking_scores,
    set_scores,
    tag_scores,
)

TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC"))]
SENTENCES = st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1), min_size=1)


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("I-PER I-PER I-LOC O", [("PER", 0, 1), ("LOC", 2, 2)]),
        ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        ("S-PER B-LOC I-LOC E-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("O O", []),
    ],
)
def test_entities_are_those_of_conlleval(tags, entities):
    assert find_entities(tags.split()) == entities


@settings(deadline=None, max_examples=25)
@given(SENTENCES)
def test_entities_and_scores_are_those_of_seqeval(sentences):
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    predicted, expected = ([[pair[side] for pair in row] for row in sentences] for side in (0, 1))
    for tags in (*predicted, *expected):
        assert [tuple(entity) for entity in find_entities(tags)] == labeling.get_entities(tags)
    found = entity_scores(predicted, expected)
    if any(find_entities(tags) for tags in (*predicted, *expected)):
        precision, recall, f1, _ = labeling.precision_recall_fscore_support(
            expected, predicted, average="micro", zero_division=0
        )
        assert [found["precision"], found["recall"], found["f1"]] == pytest.approx([precision, recall, f1])


def test_parts_of_speech_are_no_entities():
    assert is_scheme(["O", "B-PER", "I-PER"])
    assert is_scheme(["O", "I", "B"])
    assert not is_scheme(["NOUN", "VERB", "O"])
    assert not is_scheme(["B-PER", "I-PER"])
    scores = tag_scores([["NOUN", "VERB"]], [["NOUN", "NOUN"]], ["NOUN", "VERB"])
    assert scores.metrics == {"accuracy": 0.5}


def test_class_scores_are_those_of_scikit_learn():
    expected, predicted = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 1, 0, 2, 2, 1])
    scores = class_scores(predicted, expected, ["a", "b", "c", "d"])
    assert scores.metrics["accuracy"] == pytest.approx(4 / 6)
    assert scores.metrics["macro_f1"] == pytest.approx(f1_score(expected, predicted, average="macro"))
    assert scores.classes["d"]["support"] == 0
    assert scores.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]


def test_set_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    expected, predicted = rng.random((50, 4)) < 0.3, rng.random((50, 4)) < 0.3
    scores = set_scores(predicted, expected, list("abcd"))
    assert scores.metrics["macro_f1"] == pytest.approx(f1_score(expected, predicted, average="macro"))
    assert scores.metrics["micro_f1"] == pytest.approx(f1_score(expected, predicted, average="micro"))


def test_a_correlation_with_a_constant_is_undefined():
    assert number_scores(np.ones(3), np.arange(3.0)).metrics["spearman"] is None
    assert number_scores(np.arange(3.0), np.arange(3.0)).metrics["pearson"] == pytest.approx(1)


def test_ranking_counts_queries_with_a_relevant_passage():
    queries = ["a", "a", "b", "b", "c"]
    scores = ranking_scores(np.array([0.1, 0.9, 0.9, 0.1, 0.5]), np.array([1.0, 0, 1, 0, 0]), queries)
    assert scores.metrics["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores.metrics["ndcg"] == pytest.approx((1 / np.log2(3) + 1) / 2)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_thresholds_have_the_best_f1(seed):
    rng = np.random.default_rng(seed)
    expected = rng.random((30, 3)) < [0.5, 0.1, 0.0]
    logits = np.round(rng.normal(size=(30, 3)) + expected, 1)
    thresholds = best_thresholds(logits, expected)
    assert thresholds[2] == 0, "a label without examples"
    for label in range(2):
        if expected[:, label].any():
            candidates = [*(logits[:, label] - 0.05), logits[:, label].max() + 1]
            best = max(f1_score(expected[:, label], logits[:, label] > value, zero_division=0) for value in candidates)
            found = f1_score(expected[:, label], logits[:, label] > thresholds[label], zero_division=0)
            assert found == pytest.approx(best)
