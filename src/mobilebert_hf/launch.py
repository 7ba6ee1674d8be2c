"""Runs recipes: the scripts under `recipes/`, and `python -m mobilebert_hf.launch pretrain|distill ...`.

The latter is what each process of a launcher runs for `mobilebert-hf pretrain` and `mobilebert-hf distill`.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState

from .distillation import distill, pretrain
from .distillation.pretrain import RECIPE_ARGUMENTS as PRETRAINING
from .distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from .recipe import parse_recipe
from .training.interruption import TrainingInterrupted

# The function of each recipe, and the dataclasses of its arguments.
RECIPES: dict[str, tuple[Callable[..., Any], tuple[type, ...]]] = {
    "pretrain": (pretrain, PRETRAINING),
    "distill": (distill, DISTILLATION),
}


def launch(recipe: Callable[..., Any], argument_classes: Sequence[type], options: Sequence[str] | None = None) -> None:
    """Runs a recipe with the arguments of its command line. A run that was interrupted and can be resumed is no error.

    Args:
        recipe: A function of one instance of each class.
        argument_classes: The dataclasses of its arguments.
        options: The command line; by default that of the process.
    """
    try:
        recipe(*parse_recipe(argument_classes, options))
    except TrainingInterrupted as interruption:
        if PartialState().is_main_process:
            print(interruption, file=sys.stderr)
    # No process leaves while another one still communicates with it.
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    launch(*RECIPES[sys.argv[1]], sys.argv[2:])
