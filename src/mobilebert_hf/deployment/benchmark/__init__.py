"""Speed benchmark of a student, compared with stock MobileBERT, DistilBERT and BERT_BASE."""

from .run import run_benchmark

__all__ = ["run_benchmark"]
