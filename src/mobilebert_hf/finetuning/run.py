"""Fine-tuning on a task: the task chooses the arguments and the function that runs it."""

from collections.abc import Sequence
from typing import Any

from ..recipe import read_argument
from ..tasks.kinds import LABELLED, find_recipe
from . import glue, labelled, squad
from .arguments import TaskArguments
from .encoder import EncoderArguments

RECIPES = {"glue": glue, "labelled": labelled, "squad": squad}


def argument_classes(options: Sequence[str]) -> tuple[type, ...]:
    """The dataclasses that hold the arguments of the tasks named in the options of a command line.

    `TaskArguments` alone if help is requested without a task.

    Args:
        options: The command line, which names tasks by `--task` or by the file of `--config`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No task is given, or there is no such task, or the tasks do not belong together.
    """
    names = read_argument("task", options)
    if not names:
        if {"-h", "--help"} & set(options):
            return (TaskArguments,)
        raise ValueError(
            f"No task is given: add --task with one of {', '.join(LABELLED)} for your own labels, or --task squad, or "
            "--task with some tasks of GLUE, such as cola rte."
        )
    return RECIPES[find_recipe(names)].RECIPE_ARGUMENTS


def finetune(encoder: EncoderArguments, task: TaskArguments, *arguments: Any) -> Any:
    """Calls `finetune_labelled`, `finetune_glue` or `finetune_squad` and returns its result.

    Args:
        encoder: Model and adapter.
        task: The arguments of the task.
        arguments: The function's other arguments; see `argument_classes`.
    """
    if isinstance(task, squad.SquadArguments):
        return squad.finetune_squad(encoder, task, *arguments)
    if isinstance(task, labelled.LabelledArguments):
        return labelled.finetune_labelled(encoder, task, *arguments)
    assert isinstance(task, glue.GlueArguments)
    return glue.finetune_glue(encoder, task, *arguments)
