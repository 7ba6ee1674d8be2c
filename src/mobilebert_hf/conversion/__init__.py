"""Checkpoints between the original's TensorFlow 1 format and the library's."""

from .formats import convert

__all__ = ["convert"]
