"""Fine-tuning on a task: the task chooses the arguments and the function that runs it."""

from collections.abc import Sequence
from typing import Any

from ..recipe import read_argument
from ..tasks.families import SQUAD, find_family
from . import glue, squad
from .arguments import TaskArguments
from .encoder import EncoderArguments


def argument_classes(options: Sequence[str]) -> tuple[type, ...]:
    """The dataclasses that hold the arguments of the tasks named in the options of a command line.

    `TaskArguments` alone if help is requested without a task.

    Args:
        options: The command line, which names tasks by `--task` or by the file of `--config`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No task is given, or there is no such task, or the tasks belong to different benchmarks.
    """
    names = read_argument("task", options)
    if not names:
        if {"-h", "--help"} & set(options):
            return (TaskArguments,)
        raise ValueError("No task is given: add --task squad, or --task with some tasks of GLUE, such as cola rte.")
    return squad.RECIPE_ARGUMENTS if find_family(names) is SQUAD else glue.RECIPE_ARGUMENTS


def finetune(
    encoder: EncoderArguments, task: glue.GlueArguments | squad.SquadArguments, *arguments: Any
) -> dict[str, Any]:
    """Calls `finetune_glue` or `finetune_squad` and returns its result.

    Args:
        encoder: Model and adapter.
        task: The arguments of the task.
        arguments: The function's other arguments; see `argument_classes`.
    """
    if isinstance(task, squad.SquadArguments):
        return squad.finetune_squad(encoder, task, *arguments)
    return glue.finetune_glue(encoder, task, *arguments)
