"""Pre-training data from raw text, SQuAD features, and tokenizers."""

from .batching import LengthGroupedBatches, example_lengths
from .corpus import load_documents
from .masking import PretrainingCollator
from .pretraining import PretrainingData, PretrainingDataArguments, prepare_pretraining_data
from .streaming import ExampleStream
from .vocabulary import check_vocabulary, load_tokenizer, train_wordpiece

__all__ = [
    "ExampleStream",
    "LengthGroupedBatches",
    "PretrainingCollator",
    "PretrainingData",
    "PretrainingDataArguments",
    "check_vocabulary",
    "example_lengths",
    "load_documents",
    "load_tokenizer",
    "prepare_pretraining_data",
    "train_wordpiece",
]
