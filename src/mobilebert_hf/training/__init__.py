"""Training that resumes exactly: what pre-training, distillation and fine-tuning share."""

from .arguments import PreTrainingArguments
from .durable import DurableTrainer
from .interruption import EndAt, TrainingInterrupted
from .optimizer import lamb, parameter_groups

__all__ = [
    "DurableTrainer",
    "EndAt",
    "PreTrainingArguments",
    "TrainingInterrupted",
    "lamb",
    "parameter_groups",
]
