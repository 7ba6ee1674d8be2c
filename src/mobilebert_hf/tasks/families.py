"""The benchmarks that models are fine-tuned and scored on, and what the tasks of each have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

from .glue_tasks import TASKS
from .heads import CLASSIFICATION, QUESTION_ANSWERING, Task


@dataclass(frozen=True)
class Family:
    """A benchmark.

    Args:
        name: The name that selects all of its tasks.
        tasks: The keys and names of its tasks, in lower case.
        head: The head of its models.
        max_length: Default number of tokens in a sequence.
    """

    name: str
    tasks: tuple[str, ...]
    head: Task
    max_length: int


GLUE_NAMES = tuple(name for task in TASKS.values() for name in (task.key, task.name.lower()))
GLUE = Family("glue", GLUE_NAMES, CLASSIFICATION, 128)
SQUAD = Family("squad", (), QUESTION_ANSWERING, 384)


def find_family(names: Sequence[str]) -> Family:
    """The benchmark that all these tasks belong to. Upper and lower case are the same.

    Raises:
        ValueError: There is no such task, or the tasks belong to different benchmarks.
    """
    found = set()
    for name in names:
        family = [family for family in (GLUE, SQUAD) if name.lower() in (family.name, *family.tasks)]
        if not family:
            raise ValueError(f"{name!r} is not a task: expected squad, or a task of GLUE: {', '.join(TASKS)}.")
        found.update(family)
    if len(found) != 1:
        raise ValueError(f"task={list(names)}: expected tasks of one benchmark, either of GLUE or squad.")
    return found.pop()
