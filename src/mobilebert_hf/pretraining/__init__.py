"""Pre-training from raw text: what the teacher's and the student's training share."""

from .optimizer import lamb, parameter_groups
from .run import ModelArguments, pretrain
from .trainer import PreTrainer, PreTrainingArguments

__all__ = ["ModelArguments", "PreTrainer", "PreTrainingArguments", "lamb", "parameter_groups", "pretrain"]
