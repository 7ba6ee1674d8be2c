"""Everything private or unstable of transformers, accelerate and torch that training uses, beside `runs.compat`.

Each item has a contract test in `tests/training/test_compat.py`, which says what breaks when a library changes it.
"""

from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import PreTrainedModel, Trainer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalLoopOutput, HubStrategy, rotate_checkpoints
from transformers.utils import PushInProgress, cached_file
from transformers.utils.logging import tqdm

from accelerate import Accelerator

__all__ = [
    "OVERRIDDEN_METHODS",
    "EvalLoopOutput",
    "ExportableState",
    "HubStrategy",
    "PushInProgress",
    "attention_implementation",
    "find_file",
    "mark_scheduler_as_created",
    "per_process_batch_size",
    "prepare_inputs",
    "rotate_checkpoints",
    "sdpa_attention_forward",
    "sdpa_mask",
    "take_over_compilation",
    "tqdm",
    "wait_for_pushes",
]

# The private methods of `transformers.Trainer` that the trainers of this package override, with their parameters, and
# what depends on them.
OVERRIDDEN_METHODS = {
    "_get_output_dir": (("trial",), "checkpoints are written to a staging folder"),
    "_save_checkpoint": (("model", "trial"), "checkpoints are renamed when they are complete"),
    "_push_from_checkpoint": (("checkpoint_folder",), "checkpoints are uploaded without local paths and pickles"),
    "_load_callback_state": ((), "the states of callbacks are restored from a checkpoint"),
    "_run_epoch": (None, "a finished run takes no further step"),
    "_clip_grad_norm": (("model",), "the norm is computed once, and clipping survives one that overflows float32"),
    "_get_grad_norm": (("model", "grad_norm"), "the log shows the norm that was computed"),
    "_get_learning_rate": ((), "the log shows the highest learning rate of all parameter groups"),
    "_get_eval_sampler": (("eval_dataset",), "predictions of fine-tuning are in the order of the data"),
}

# A layer is compiled once for each way it is called: by which model, with or without gradients, with or without raw
# scores, for one length or any. Above PyTorch's default limit of 8, it would run uncompiled without a message.
RECOMPILATIONS = 64


def take_over_compilation(accelerator: Accelerator) -> dict[str, Any] | None:
    """The options of `torch.compile` in the arguments of the Trainer or of `accelerate launch`; None: do not compile.

    The accelerator itself no longer compiles the whole model.
    """
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return None
    options = plugin.to_kwargs()
    plugin.backend = DynamoBackend.NO
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    return options


def attention_implementation(model: PreTrainedModel) -> Any:
    """The attention implementation of a model, to set it again later."""
    return model.config._attn_implementation


def per_process_batch_size(trainer: Trainer) -> int:
    """The batch size of a process, which `auto_find_batch_size` may have reduced."""
    return trainer._train_batch_size


def prepare_inputs(trainer: Trainer, batch: Any) -> dict[str, Any]:
    """A batch on the device of the Trainer."""
    return trainer._prepare_inputs(batch)


def mark_scheduler_as_created(trainer: Trainer) -> None:
    """Tells the Trainer that it created its scheduler, so that a second `train` creates a new one."""
    trainer._created_lr_scheduler = True


def wait_for_pushes(trainer: Trainer) -> None:
    """Waits for uploads that run in the background."""
    trainer._finish_current_push()


def find_file(model: str, name: str) -> str | None:
    """The local path of a file of a model's Hub repository or folder; None if it has no such file."""
    return cached_file(model, name, _raise_exceptions_for_missing_entries=False)
