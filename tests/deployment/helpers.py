"""Small students for the tests of exports."""

import torch

import mobilebert_hf
from mobilebert_hf import MobileBertConfig

SIZES = {
    "hidden_size": 32,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "intra_bottleneck_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
TINY = {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False}


def save(folder, tokenizer, head="ForQuestionAnswering", seed=0, **fields):
    torch.manual_seed(seed)
    config = MobileBertConfig(vocab_size=len(tokenizer), **{**SIZES, **fields})
    getattr(mobilebert_hf, f"MobileBert{head}")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
