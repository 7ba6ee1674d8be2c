"""Training that resumes exactly: what pre-training, distillation and fine-tuning share."""

from .arguments import PreTrainingArguments
from .durable import DurableTrainer
from .interruption import EndAt, TrainingInterrupted
from .optimizer import lamb, parameter_groups
from .run_folder import find_checkpoint, open_run_folder

__all__ = [
    "DurableTrainer",
    "EndAt",
    "PreTrainingArguments",
    "TrainingInterrupted",
    "find_checkpoint",
    "lamb",
    "open_run_folder",
    "parameter_groups",
]
