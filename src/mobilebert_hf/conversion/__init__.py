"""Conversion between the original TensorFlow 1 checkpoints and transformers checkpoints."""

from .formats import convert

__all__ = ["convert"]
