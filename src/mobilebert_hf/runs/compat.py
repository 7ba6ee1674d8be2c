"""Everything private or unstable of transformers and accelerate that run folders use; training's is in its package.

Each item has a contract test in `tests/runs/test_compat.py`, which says what breaks when a library changes it.
"""

from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

__all__ = ["PREFIX_CHECKPOINT_DIR", "broadcast_object_list", "default_accelerator_config", "sort_checkpoints"]


def default_accelerator_config() -> dict[str, Any]:
    """The value of `TrainingArguments.accelerator_config` if it was not set."""
    return {name: value for name, value in AcceleratorConfig().to_dict().items() if name != "use_configured_state"}
