"""Layer-wise knowledge transfer from the IB-BERT teacher to the MobileBERT student, then distillation."""

from .initialization import check_match, initialize_from_teacher
from .run import StudentArguments, distill
from .strategies import Stage, Strategy, build_strategy
from .trainer import DistillationArguments, DistillationTrainer

__all__ = [
    "DistillationArguments",
    "DistillationTrainer",
    "Stage",
    "Strategy",
    "StudentArguments",
    "build_strategy",
    "check_match",
    "distill",
    "initialize_from_teacher",
]
