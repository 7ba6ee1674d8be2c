"""Runs that are not lost: what pre-training, distillation and fine-tuning share."""

from .durable import DurableTrainer, EndAt, TrainingInterrupted

__all__ = ["DurableTrainer", "EndAt", "TrainingInterrupted"]
