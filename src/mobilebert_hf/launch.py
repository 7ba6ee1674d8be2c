"""Runs recipes: the scripts under `recipes/`, and `python -m mobilebert_hf.launch pretrain|distill|finetune ...`.

Each process that `mobilebert-hf pretrain|distill|finetune` starts runs the latter.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState

from .distillation import distill, pretrain
from .distillation.pretrain import RECIPE_ARGUMENTS as PRETRAINING
from .distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from .finetuning.run import argument_classes as finetuning_classes
from .finetuning.run import finetune
from .recipe import parse_recipe
from .training.interruption import TrainingInterrupted

# The dataclasses of a recipe's arguments, or a function that chooses them by the options.
ArgumentClasses = Sequence[type] | Callable[[Sequence[str]], Sequence[type]]
# The function of each recipe, and its arguments.
RECIPES: dict[str, tuple[Callable[..., Any], ArgumentClasses]] = {
    "pretrain": (pretrain, PRETRAINING),
    "distill": (distill, DISTILLATION),
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
