"""Runs recipes: the scripts under `recipes/`, and `python -m mobilebert_hf.launch pretrain|distill|finetune ...`.

Each process that `mobilebert-hf pretrain|distill|finetune` starts runs the latter.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from .distillation import distill, pretrain
from .distillation.pretrain import RECIPE_ARGUMENTS as PRETRAINING
from .distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from .finetuning import task_distillation
from .finetuning.run import argument_classes as finetuning_classes
from .finetuning.run import finetune
from .recipe import parse_recipe, read_argument
from .tasks.kinds import KINDS, kind_of_model
from .training.compat import find_file
from .training.interruption import TrainingInterrupted

# The dataclasses of a recipe's arguments, or a function that chooses them by the options.
ArgumentClasses = Sequence[type] | Callable[[Sequence[str]], Sequence[type]]


def distillation_classes(options: Sequence[str]) -> Sequence[type]:
    """The dataclasses of the arguments of a distillation: with the head if data of its task is given.

    Raises:
        ValueError: The teacher has a head for a task, but there is neither data of it nor an objective without it.
    """
    if read_argument("data", options):
        return task_distillation.RECIPE_ARGUMENTS
    teacher = read_argument("teacher", options)
    config = find_file(teacher[0], "config.json") if teacher and not read_argument("objective", options) else None
    if teacher and config is not None:
        kind = kind_of_model(json.loads(Path(config).read_text(encoding="utf-8")))
        if kind is not KINDS["embed"]:
            raise ValueError(
                f"{teacher[0]} has a head for {kind.head.name}: give texts of its task, labelled or not, with --data, "
                "or --objective features for a student of its encoder alone."
            )
    return DISTILLATION


def distill_any(student: Any, *arguments: Any) -> Any:
    """Calls `distill_task` or `distill`; see `distillation_classes`."""
    with_head = isinstance(student, task_distillation.TaskStudentArguments)
    return (task_distillation.distill_task if with_head else distill)(student, *arguments)


# The function of each recipe, and its arguments.
RECIPES: dict[str, tuple[Callable[..., Any], ArgumentClasses]] = {
    "pretrain": (pretrain, PRETRAINING),
    "distill": (distill_any, distillation_classes),
    "finetune": (finetune, finetuning_classes),
}


def launch(
    recipe: Callable[..., Any], argument_classes: ArgumentClasses, options: Sequence[str] | None = None
) -> None:
    """Runs a recipe with the arguments of its command line. A run that was interrupted and can be resumed is no error.

    Args:
        recipe: A function of one instance of each class.
        argument_classes: The dataclasses of its arguments, or a function that chooses them by the options.
        options: The command line; by default that of the process.
    """
    options = sys.argv[1:] if options is None else options
    classes = argument_classes(options) if callable(argument_classes) else argument_classes
    try:
        recipe(*parse_recipe(classes, options))
    except TrainingInterrupted as interruption:
        if PartialState().is_main_process:
            print(interruption, file=sys.stderr)
    # No process leaves while another one still communicates with it.
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    launch(*RECIPES[sys.argv[1]], sys.argv[2:])
