"""Refuses arguments that would have no effect, with the reason, before any work begins."""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from ..data import PretrainingDataArguments
from .arguments import DistillationArguments, OutputName, StudentArguments

# The library's schedule, in place of which there are the stages of the strategy.
SCHEDULE = {
    "max_steps": "the number of steps is transfer_steps + distillation_steps, or follows from minutes",
    "num_train_epochs": "the length is that of transfer_steps and distillation_steps, or of minutes",
    "lr_scheduler_type": "the curves of the learning rate are those of the strategy",
    "lr_scheduler_kwargs": "the curves of the learning rate are those of the strategy",
    "warmup_steps": "warm-up is a share of the distillation: set distillation_warmup_ratio",
}
# For which objectives an argument counts, and what these are.
IB_BERT, OTHERS = {"pretraining"}, {"masked_lm", "pooled", "features"}
HEADS, SENTENCES = {"pretraining", "masked_lm"}, {"pooled"}
OBJECTIVES = {
    "preset": (IB_BERT, "IB-BERT teachers"),
    **dict.fromkeys(
        ("size", "layers", "max_length", "task", "task_data"),
        (OTHERS, "teachers other than IB-BERT"),
    ),
    **dict.fromkeys(
        ("mlm_probability", "whole_word_mask", "alpha", "temperature"), (HEADS, "students that learn masked words")
    ),
    **dict.fromkeys(("pooled_weight", "matryoshka"), (SENTENCES, "students of sentence encoders")),
}


def check_schedule(training: DistillationArguments) -> None:
    """Refuses the library's settings of length and learning rate; a ValueError names the one to use instead."""
    for name in _given([training], SCHEDULE):
        raise ValueError(f"{name}={getattr(training, name)!r} has no effect: {SCHEDULE[name]}. Leave it out.")
    steps = _given([training], ["transfer_steps", "distillation_steps"])
    # Only their proportion counts beside minutes.
    if training.minutes is not None and steps and (training.strategy == "auxiliary" or not training.transfer_steps):
        raise ValueError(
            f"{steps[0]}={getattr(training, steps[0])} has no effect beside minutes={training.minutes}, from which "
            "the number of steps follows: leave one of the two out."
        )


def check_objective(
    output: OutputName, student: StudentArguments, data: PretrainingDataArguments, training: DistillationArguments
) -> None:
    """Refuses arguments of other objectives and teachers than those of this run; a ValueError names them."""
    arguments = [student, data, training]
    for name in _given(arguments, OBJECTIVES):
        outputs, what = OBJECTIVES[name]
        if output not in outputs:
            value = next(getattr(each, name) for each in arguments if hasattr(each, name))
            raise ValueError(
                f"{name}={value!r} has no effect: it is for {what}, and the objective of this run is {output}. Leave "
                "it out."
            )
    if data.examples == "pairs" and output != "pretraining":
        raise ValueError(
            f"examples='pairs' are for next-sentence prediction, which a student with the objective {output} does not "
            "learn: choose sentences or windows, or leave it out."
        )


def check_dimensions(training: DistillationArguments, dimensions: int) -> None:
    """Refuses numbers of `matryoshka` above the dimensions of the embeddings."""
    if training.dimensions and training.dimensions[0] > dimensions:
        raise ValueError(
            f"matryoshka={training.matryoshka!r}: the teacher's embeddings have {dimensions} dimensions, expected "
            "numbers up to that."
        )


def _given(arguments: Iterable[Any], names: Iterable[str]) -> list[str]:
    """Those of the names whose values differ from their defaults."""
    defaults = {
        field.name: field.default_factory() if field.default is MISSING and field.default_factory is not MISSING
        else field.default
        for argument in arguments
        for field in fields(argument)
    }  # fmt: skip
    values = {name: getattr(argument, name) for argument in arguments for name in vars(argument)}
    return [name for name in names if name in defaults and values.get(name) != defaults[name]]
