"""GLUE scores against their definitions, on thousands of random cases."""

import random

import numpy as np
import pytest

from mobilebert_hf.tasks.glue_scores import glue_average, glue_scores, task_score
from mobilebert_hf.tasks.glue_tasks import TASKS
from mobilebert_hf.tasks.metrics import load_metric


def counts(predicted, expected):
    pairs = list(zip(predicted, expected, strict=True))
    return [pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]


def by_hand(task, predicted, expected):
    """The score by its definition, from confusion counts or ranks; None if it divides by zero."""
    if task.regression:
        return {
            "pearson": correlation(predicted, expected),
            "spearmanr": correlation(ranks(predicted), ranks(expected)),
        }
    scores = {"accuracy": sum(p == e for p, e in zip(predicted, expected, strict=True)) / len(expected)}
    if len(task.labels) == 2:
        tp, fp, fn, tn = counts(predicted, expected)
        scores["f1"] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        scores["matthews_correlation"] = (tp * tn - fp * fn) / product**0.5 if product else None
    return {name: scores[name] for name in task.metrics}


def ranks(values):
    return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]


def correlation(first, second):
    a, b = (np.array(values, dtype=np.longdouble) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 1e-12 else None


def random_case(rng, task):
    count = rng.randint(2, 40)
    if task.regression:
        values = rng.choice([[0.0, 1.0, 2.5], [round(rng.uniform(0, 5), 3) for _ in range(50)]])  # many or few ties
        return [[rng.choice(values) for _ in range(count)] for _ in range(2)]
    weights = rng.choice([[1, 1], [1, 20], [1, 0], [0, 1]])  # balanced, rare, or a single class
    return [rng.choices([0, 1], weights, k=count) for _ in range(2)]


@pytest.mark.parametrize("key", ["cola", "mrpc", "stsb", "rte"])
def test_scores_equal_the_definitions(key):
    task, rng, undefined = TASKS[key], random.Random(key), 0
    for _ in range(2000):
        predicted, expected = random_case(rng, task)
        scores = glue_scores(task, predicted, expected)
        for name, value in by_hand(task, predicted, expected).items():
            if value is None:
                undefined += 1
                assert scores[name] == (None if task.regression else 0.0)
                assert scores["undefined"][name]
            else:
                assert scores[name] == pytest.approx(value, abs=1e-9)
                assert name not in scores.get("undefined", {})
    assert undefined > 20 or key == "rte", "no random case had an undefined score"


def test_three_classes_have_a_matthews_correlation_too():
    rng = np.random.default_rng(0)
    predicted, expected = rng.integers(3, size=(2, 500))
    table = np.array([[((predicted == p) & (expected == e)).sum() for e in range(3)] for p in range(3)])
    n, right, row, column = table.sum(), np.trace(table), table.sum(1), table.sum(0)
    value = (right * n - row @ column) / np.sqrt(float(n**2 - row @ row) * float(n**2 - column @ column))
    assert glue_scores(TASKS["ax"], predicted, expected)["matthews_correlation"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("key", "predicted", "expected", "message"),
    [
        ("rte", [0, 1], [0], "2 predictions for 1 references"),
        ("rte", [], [], "0 predictions for 0 references"),
        ("rte", [0, 2], [0, 1], "RTE: prediction 1 is 2: expected a class from 0 to 1"),
        ("mnli", [0, 1], [0, -1], "MNLI: reference 1 is -1: expected a class from 0 to 2"),
        ("stsb", [1.0, float("nan")], [0.0, 1.0], "STS-B: prediction 1 is nan: expected a finite number"),
    ],
)
def test_invalid_predictions_are_errors(key, predicted, expected, message):
    with pytest.raises(ValueError, match=message):
        glue_scores(TASKS[key], predicted, expected)


def test_undefined_scores_have_a_reason():
    scores = glue_scores(TASKS["stsb"], [2.5, 2.5, 2.5], [0.0, 1.0, 2.0])
    reason = "all 3 predictions are 2.5"
    assert scores == {"pearson": None, "spearmanr": None, "undefined": {"pearson": reason, "spearmanr": reason}}
    scores = glue_scores(TASKS["cola"], [1, 0], [1, 1])
    assert scores["undefined"] == {"matthews_correlation": "all 2 references are 1; 0 by convention"}
    scores = glue_scores(TASKS["mrpc"], [0, 0], [0, 0])
    assert scores["f1"] == 0.0
    assert scores["undefined"] == {"f1": "neither predictions nor references have a 1; 0 by convention"}


def test_the_metric_loads_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    metric = load_metric("glue", "mrpc")
    assert metric.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0]) == {"accuracy": 0.75, "f1": 2 / 3}
    with pytest.raises(ValueError, match="expected one of glue, squad, squad_v2"):
        load_metric("bleu")
    with pytest.raises(ValueError, match="config_name is missing"):
        load_metric("glue")


def test_the_average_is_the_servers():
    """Devlin et al. (2018) on the leaderboard: 78.3, and WNLI at the majority class."""
    bert_base = {
        "cola": {"test": {"matthews_correlation": 0.521}},
        "sst2": {"test": {"accuracy": 0.935}},
        "mrpc": {"test": {"f1": 0.889, "accuracy": 0.848}},
        "stsb": {"test": {"pearson": 0.871, "spearmanr": 0.858}},
        "qqp": {"test": {"f1": 0.712, "accuracy": 0.892}},
        "mnli": {"test_matched": {"accuracy": 0.846}, "test_mismatched": {"accuracy": 0.834}},
        "qnli": {"test": {"accuracy": 0.905}},
        "rte": {"test": {"accuracy": 0.664}},
        "wnli": {"test": {"accuracy": 0.651}},
        "ax": {"test": {"matthews_correlation": 0.342}},
    }
    average, remark = glue_average({key: task_score(TASKS[key], scores) for key, scores in bert_base.items()})
    assert average == pytest.approx(0.783, abs=5e-4)
    assert remark == "GLUE score"


def test_an_incomplete_average_names_the_missing_tasks():
    average, remark = glue_average({"rte": 0.6, "sst2": 0.9, "stsb": None})
    assert average == pytest.approx(0.75)
    assert remark.startswith("mean of 2 of 9 tasks, not the GLUE score; without CoLA, MRPC, STS-B (undefined), QQP")
    assert glue_average({"stsb": None})[0] is None
