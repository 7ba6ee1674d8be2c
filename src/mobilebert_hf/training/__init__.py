"""Runs that are not lost: what pre-training, distillation and fine-tuning share."""

from .durable import DurableTrainer, EndAt, TrainingInterrupted
from .run_folder import find_checkpoint, open_run_folder

__all__ = ["DurableTrainer", "EndAt", "TrainingInterrupted", "find_checkpoint", "open_run_folder"]
