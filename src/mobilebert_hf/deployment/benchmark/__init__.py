"""How fast a student is on this machine, beside BERT and others."""

from .run import run_benchmark

__all__ = ["run_benchmark"]
