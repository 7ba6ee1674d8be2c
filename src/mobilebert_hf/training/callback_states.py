"""Callbacks' states in checkpoints: a resumed run stops as a whole run does, and keeps the same model."""

from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .compat import ExportableState


def restore_callback_states(trainer: Any) -> bool:
    """Gives the callbacks the attributes that they had when the checkpoint of `trainer.state` was written.

    Their arguments remain those of this run. The best checkpoint is looked up in `output_dir`, which may have moved.

    Returns:
        Whether early stopping had ended the run.
    """
    state = trainer.state
    callbacks = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ExportableState)]
    saved = {name: list(_as_list(states)) for name, states in state.stateful_callbacks.items()}
    for callback in callbacks:
        states = saved.get(type(callback).__name__)
        if states:
            for name, value in states.pop(0).get("attributes", {}).items():
                setattr(callback, name, value)
    # The library expects an entry for each callback when it writes the next checkpoint.
    state.stateful_callbacks = {"TrainerControl": state.stateful_callbacks["TrainerControl"]}
    for callback in callbacks:
        state.stateful_callbacks[type(callback).__name__] = callback.state()
    if state.best_model_checkpoint is None and state.best_global_step:
        best = Path(trainer.args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        state.best_model_checkpoint = str(best) if best.is_dir() else None
    return any(
        isinstance(callback, EarlyStoppingCallback)
        and callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in callbacks
    )


def _as_list(states: Any) -> list[Any]:
    return states if isinstance(states, list) else [states]
