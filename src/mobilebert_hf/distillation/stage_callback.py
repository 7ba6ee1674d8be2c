"""What changes where a stage of training begins: frozen parameters and the state of the optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..training.optimizer import parameter_groups
from .stages import Stage, Strategy


class StageCallback(TrainerCallback):
    """Freezes the parameter groups with scale 0 in each stage, and resets the optimizer's moments where it begins."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.stage: Stage | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Enters the stage of the global step."""
        _, stage, step = self.strategy.position(state.global_step)
        if step == 0:
            # As in the original: the objective changes here, and moments of the old one would be misleading.
            kwargs["optimizer"].state.clear()
        if stage is not self.stage:
            self.stage = stage
            for group in parameter_groups(kwargs["model"], weight_decay=0.0, trust_ratio=False):
                for parameter in group["params"]:
                    parameter.requires_grad_(stage.lr_scales[group["name"]] > 0)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaves nothing frozen."""
        self.stage = None
        kwargs["model"].requires_grad_(True)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Turns off every dropout of a model within the context, also in training mode."""
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    try:
        for module, _ in dropouts:
            module.p = 0.0
        yield
    finally:
        for module, p in dropouts:
            module.p = p
