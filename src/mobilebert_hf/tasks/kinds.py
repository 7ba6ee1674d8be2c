"""The table of tasks: every kind of task, and the benchmarks' tasks as entries of a kind.

Fine-tuning, distillation with a head, scoring and cards read this table: head, columns, type of label, metrics,
default length. A model's configuration says its kind (`kind_of_model`), so no file beside the model is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .glue_tasks import TASKS as GLUE_TASKS
from .glue_tasks import GlueTask
from .heads import CLASSIFICATION, FEATURES, QUESTION_ANSWERING, TOKEN_CLASSIFICATION, Task

# One class; any number of classes; a number; a class for each word; a span of the text; nothing.
LabelType = Literal["class", "classes", "score", "tags", "span", "none"]
# What trains the task: own labelled data, the GLUE sweeps, or SQuAD.
Recipe = Literal["labelled", "glue", "squad"]

# Usual names of the columns in files, in lower case. The first one that exists is used.
TEXT = ("text", "sentence", "sentence1", "utterance", "content", "review", "comment", "tweet", "document")
LABEL = ("label", "labels", "category", "class", "intent", "target", "sentiment", "emotion", "score", "gold_label")
FIRST = ("text1", "sentence1", "question1", "premise", "query", "question", "text_a", "text")
SECOND = ("text2", "sentence2", "question2", "hypothesis", "passage", "answer", "text_b", "text_pair", "document")


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Args:
        name: The value of `--task`.
        head: The head of its models, with the name of its pipeline.
        label: The type of its labels.
        metrics: Names of its metrics; the first one is the score that runs are compared by.
        columns: Usual names of its columns in files, by role.
        problem_type: `problem_type` of the configuration, which sets the loss; None if the head has one loss.
        max_length: Default number of tokens in a sequence or window.
        optional: Roles that a file may lack.
    """

    name: str
    head: Task
    label: LabelType
    metrics: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    problem_type: str | None = None
    max_length: int = 128
    optional: tuple[str, ...] = ()


# A model for one text or for two does not say so: the file does.
SINGLE = {
    "text": (*TEXT, "text1", "text_a", "question1", "premise"),
    "text_pair": ("text_pair", "sentence2", "text2", "text_b", "question2", "hypothesis"),
    "label": LABEL,
}
CLASS_METRICS, SCORE_METRICS = ("accuracy", "macro_f1"), ("spearman", "pearson")
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "classify",
            CLASSIFICATION,
            "class",
            CLASS_METRICS,
            SINGLE,
            "single_label_classification",
            optional=("text_pair",),
        ),
        Kind(
            "multilabel",
            CLASSIFICATION,
            "classes",
            ("macro_f1", "micro_f1"),
            SINGLE,
            "multi_label_classification",
            optional=("text_pair",),
        ),
        Kind("regress", CLASSIFICATION, "score", SCORE_METRICS, SINGLE, "regression", optional=("text_pair",)),
        # Labels that are all numbers, some of them not whole, are scores; otherwise they are classes.
        Kind(
            "pairs",
            CLASSIFICATION,
            "class",
            CLASS_METRICS,
            {"text": FIRST, "text_pair": SECOND, "label": LABEL},
            "single_label_classification",
        ),
        # One logit with a binary cross-entropy: pipelines show its sigmoid, the relevance of the passage.
        Kind(
            "rerank",
            CLASSIFICATION,
            "score",
            ("mrr", "ndcg"),
            {
                "text": ("query", "question", "text1"),
                "text_pair": ("passage", "document", "answer", "text2", "text"),
                "label": ("relevance", *LABEL),
            },
            "multi_label_classification",
        ),
        Kind(
            "tag",
            TOKEN_CLASSIFICATION,
            "tags",
            ("f1", "precision", "recall"),
            {"tokens": ("tokens", "words"), "label": ("tags", "ner_tags", "labels", "pos_tags", "upos")},
        ),
        Kind("qa", QUESTION_ANSWERING, "span", ("f1", "exact_match"), {}, max_length=384),
        Kind("embed", FEATURES, "none", ("spearmanr",), {"text": FIRST, "text_pair": SECOND, "label": LABEL}),
    )
}
# The kinds that are trained on own labelled files.
LABELLED = tuple(name for name in KINDS if name not in ("qa", "embed"))


def glue_kind(task: GlueTask) -> Kind:
    """The kind of a task of GLUE."""
    return KINDS["regress" if task.regression else "pairs" if task.pair else "classify"]


GLUE = {name: glue_kind(task) for task in GLUE_TASKS.values() for name in (task.key, task.name.lower())}
SQUAD = dict.fromkeys(("squad", "qa"), KINDS["qa"])


def find_kind(name: str) -> Kind:
    """The kind of a task of the table: a kind, a task of GLUE, or squad. Upper and lower case are the same.

    Raises:
        ValueError: There is no such task.
    """
    kind = {**KINDS, **GLUE, **SQUAD}.get(name.lower())
    if kind is None:
        raise ValueError(
            f"{name!r} is not a task: expected {', '.join(LABELLED)} for your own labels, squad, or a task of GLUE: "
            f"{', '.join(GLUE_TASKS)}."
        )
    return kind


def find_recipe(names: Sequence[str]) -> Recipe:
    """What trains and scores these tasks.

    Raises:
        ValueError: There is no such task, or the tasks do not belong together.
    """
    found: set[Recipe] = set()
    for name in map(str.lower, names):
        if name == "glue":
            found.add("glue")
            continue
        kind = find_kind(name)
        if kind is KINDS["embed"]:
            raise ValueError(
                "task='embed': sentence encoders are trained by `mobilebert-hf distill`, or with --bi_encoder true on "
                "GLUE's tasks of pairs."
            )
        found.add("glue" if name in GLUE else "squad" if name in SQUAD else "labelled")
    if len(found) != 1 or ("labelled" in found and len(names) > 1):
        raise ValueError(
            f"task={list(names)}: expected one of {', '.join(LABELLED)}, or squad, or one or more tasks of GLUE."
        )
    return found.pop()


def kind_of_model(config: Mapping[str, Any]) -> Kind:
    """The kind of a saved model, by the head and the `problem_type` of its configuration.

    Two texts make no difference to the head: a model for `pairs` is one for `classify` or `regress`.

    Args:
        config: The contents of `config.json`, or `config.to_dict()`.
    """
    architecture = (config.get("architectures") or ["Model"])[0]
    if architecture.endswith("ForTokenClassification"):
        return KINDS["tag"]
    if architecture.endswith("ForQuestionAnswering"):
        return KINDS["qa"]
    if not architecture.endswith("ForSequenceClassification"):
        return KINDS["embed"]
    problem, count = config.get("problem_type"), len(config.get("id2label") or (0, 1))
    if problem == "multi_label_classification":
        return KINDS["rerank" if count == 1 else "multilabel"]
    return KINDS["regress" if problem == "regression" or count == 1 else "classify"]
