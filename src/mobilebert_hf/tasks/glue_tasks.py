"""The table of the GLUE tasks (Wang et al., 2018, arXiv 1804.07461)."""

from collections.abc import Mapping
from dataclasses import dataclass

ENTAILMENT = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class GlueTask:
    """A GLUE task.

    Args:
        key: Configuration name in the Hub dataset `nyu-mll/glue`.
        name: Name in tables, and of the folder in the GLUE layout.
        labels: Names of the classes, in the order of their indices. Empty for regression (scores from 0 to 5).
        metrics: Names of the official metrics. Their mean is the task's score.
        pair: Whether an example has two sentences.
        test_rows: Number of rows by name of the submission file.
        named: Whether submission files have the names of the classes instead of their indices.
        suffixes: Suffixes of the names of the evaluation splits.
    """

    key: str
    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    pair: bool
    test_rows: Mapping[str, int]
    named: bool = False
    suffixes: tuple[str, ...] = ("",)

    @property
    def regression(self) -> bool:
        """Whether the labels are scores."""
        return not self.labels

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """Names of the validation splits."""
        return tuple(f"validation{suffix}" for suffix in self.suffixes)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Names of the test splits, in the order of `test_rows`."""
        return tuple(f"test{suffix}" for suffix in self.suffixes)


BINARY = ("accuracy", "f1")
TASKS = {
    task.key: task
    for task in (
        GlueTask("cola", "CoLA", ("unacceptable", "acceptable"), ("matthews_correlation",), False, {"CoLA": 1063}),
        GlueTask("sst2", "SST-2", ("negative", "positive"), ("accuracy",), False, {"SST-2": 1821}),
        GlueTask("mrpc", "MRPC", ("not_equivalent", "equivalent"), BINARY, True, {"MRPC": 1725}),
        GlueTask("stsb", "STS-B", (), ("pearson", "spearmanr"), True, {"STS-B": 1379}),
        GlueTask("qqp", "QQP", ("not_duplicate", "duplicate"), BINARY, True, {"QQP": 390_965}),
        GlueTask(
            "mnli",
            "MNLI",
            THREE_WAY,
            ("accuracy",),
            True,
            {"MNLI-m": 9796, "MNLI-mm": 9847},
            named=True,
            suffixes=("_matched", "_mismatched"),
        ),
        GlueTask("qnli", "QNLI", ENTAILMENT, ("accuracy",), True, {"QNLI": 5463}, named=True),
        GlueTask("rte", "RTE", ENTAILMENT, ("accuracy",), True, {"RTE": 3000}, named=True),
        GlueTask("wnli", "WNLI", ("not_entailment", "entailment"), ("accuracy",), True, {"WNLI": 146}),
        # Has no training data; models trained on MNLI are evaluated on it. Not part of the GLUE average.
        GlueTask("ax", "AX", THREE_WAY, ("matthews_correlation",), True, {"AX": 1104}, named=True),
    )
}


def find_task(name: str) -> GlueTask:
    """Returns a task by its key or name, case-insensitively; raises ValueError if there is none."""
    for task in TASKS.values():
        if name.lower() in (task.key, task.name.lower()):
            return task
    raise ValueError(f"{name!r} is not a task of GLUE: expected one of {', '.join(TASKS)}.")
