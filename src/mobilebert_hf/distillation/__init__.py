"""Distillation by objectives and stages from any BERT-like teacher; pre-training is the same without a teacher."""

from .arguments import PAPER, DistillationArguments, StudentArguments
from .initialization import check_match, initialize_from_teacher
from .pretrain import ModelArguments, pretrain
from .run import distill
from .shapes import SIZES, Shape, student_shape
from .strategies import Stage, Strategy, build_strategy
from .teachers import EncoderTeacher, IBBertTeacher, Teacher
from .trainer import DistillationTrainer

__all__ = [
    "PAPER",
    "SIZES",
    "DistillationArguments",
    "DistillationTrainer",
    "EncoderTeacher",
    "IBBertTeacher",
    "ModelArguments",
    "Shape",
    "Stage",
    "Strategy",
    "StudentArguments",
    "Teacher",
    "build_strategy",
    "check_match",
    "distill",
    "initialize_from_teacher",
    "pretrain",
    "student_shape",
]
