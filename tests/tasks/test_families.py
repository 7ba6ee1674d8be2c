"""Which benchmark a task belongs to."""

import pytest

from mobilebert_hf.tasks.families import GLUE, SQUAD, find_family
from mobilebert_hf.tasks.glue_tasks import TASKS


def test_tasks_are_found_by_key_and_by_name_in_any_case():
    for task in TASKS.values():
        assert find_family([task.key, task.name, task.key.upper()]) is GLUE
    assert find_family(["glue"]) is GLUE
    assert find_family(["SQuAD"]) is SQUAD


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cola", "rte2"], "'rte2' is not a task: expected squad, or a task of GLUE: cola, sst2"),
        (["cola", "squad"], r"task=\['cola', 'squad'\]: expected tasks of one benchmark"),
        ([], "expected tasks of one benchmark"),
    ],
)
def test_what_is_no_task_of_one_benchmark_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_family(names)
