"""Small networks for the tests of the benchmark and of the profiles."""

import torch
import transformers

from mobilebert_hf import MobileBertConfig, MobileBertForQuestionAnswering, fold
from mobilebert_hf.deployment.benchmark.networks import BERT, OURS, STOCK

from ..helpers import TINY

# A vocabulary that makes megabytes of each, which is what their memory is told by.
SIZES = {"vocab_size": 60_000, "num_hidden_layers": 2, "max_position_embeddings": 384}


def small_networks(model):
    """Tiny models of all four networks."""
    torch.manual_seed(0)
    student = {"hidden_size": 64, "embedding_size": 32, "intra_bottleneck_size": 32, "intermediate_size": 64, **SIZES}
    bert = transformers.BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, **SIZES)
    distilbert = transformers.DistilBertConfig(
        vocab_size=60_000, n_layers=2, dim=32, hidden_dim=64, n_heads=4, max_position_embeddings=384
    )
    ours = MobileBertForQuestionAnswering(MobileBertConfig(**student))
    built = {
        OURS: ours,
        STOCK: transformers.MobileBertForQuestionAnswering(transformers.MobileBertConfig(**ours.config.to_dict())),
        "DistilBERT": transformers.DistilBertForQuestionAnswering(distilbert),
        BERT: transformers.BertForQuestionAnswering(bert),
    }
    return {name: network.eval() for name, network in built.items()}


STUDENTS = {
    "layer_norm": lambda student: type(student)(with_fields(student.config, normalization_type="layer_norm")),
    "gelu": lambda student: type(student)(with_fields(student.config, hidden_act="gelu")),
    "tiny": lambda student: type(student)(with_fields(student.config, **TINY)),
    "folded": fold,
    "quantization-aware": lambda student: fold(student, quantization_aware=True),
}


def with_fields(config, **fields):
    return MobileBertConfig.from_dict({**config.to_dict(), **fields})
