"""The table of tasks."""

import pytest

from mobilebert_hf.tasks.glue_tasks import TASKS
from mobilebert_hf.tasks.heads import EXPORTED
from mobilebert_hf.tasks.heads import TASKS as HEADS
from mobilebert_hf.tasks.kinds import KINDS, LABELLED, find_kind, find_recipe, kind_of_model


def test_tasks_are_found_by_key_and_by_name_in_any_case():
    for task in TASKS.values():
        assert {find_recipe([name]) for name in (task.key, task.name, task.key.upper())} == {"glue"}
    assert find_recipe(["glue"]) == "glue"
    assert find_recipe(["cola", "rte"]) == "glue"
    assert {find_recipe([name]) for name in ("SQuAD", "squad", "qa")} == {"squad"}
    assert {find_recipe([name]) for name in LABELLED} == {"labelled"}


def test_benchmarks_are_entries_of_kinds():
    kinds = {name: find_kind(name).name for name in ("sst2", "stsb", "rte", "squad")}
    assert kinds == {"sst2": "classify", "stsb": "regress", "rte": "pairs", "squad": "qa"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cola", "rte2"], "'rte2' is not a task: expected classify, .*, squad, or a task of GLUE: cola, sst2"),
        (["cola", "squad"], r"task=\['cola', 'squad'\]: expected one of classify"),
        (["classify", "tag"], "expected one of classify"),
        (["embed"], "sentence encoders are trained by `mobilebert-hf distill`"),
        ([], "expected one of classify"),
    ],
)
def test_what_is_no_task_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_recipe(names)


@pytest.mark.parametrize("name", ["classify", "multilabel", "regress", "rerank", "tag", "qa", "embed"])
def test_a_configuration_says_its_kind(name):
    kind = KINDS[name]
    architecture = next(suffix for suffix, head in HEADS.items() if head is kind.head)
    labels = {0: "score"} if kind.label == "score" else {0: "a", 1: "b"}
    config = {"architectures": [f"Bert{architecture}"], "problem_type": kind.problem_type, "id2label": labels}
    assert kind_of_model(config) is kind
    assert architecture in EXPORTED
