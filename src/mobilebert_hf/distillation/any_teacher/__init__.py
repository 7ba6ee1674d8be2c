"""A student of any BERT-like encoder: its shape, its start, its transfer, and what it is worth."""

from .run import AnyStudentArguments, distil_any
from .shapes import SIZES, Shape, student_shape
from .trainer import AnyTeacherArguments, AnyTeacherTrainer

__all__ = [
    "SIZES",
    "AnyStudentArguments",
    "AnyTeacherArguments",
    "AnyTeacherTrainer",
    "Shape",
    "distil_any",
    "student_shape",
]
