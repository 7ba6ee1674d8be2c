"""Inference without padding: all tokens of a batch are packed into one sequence.

    fold(model).set_attn_implementation("mobilebert_packed")

Attention is computed within each original sequence. All other matmuls are per token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PACKED = "mobilebert_packed"


def pack(states: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[int]]:
    """Removes padding: [batch, seq, width] -> [1, tokens, width], and the length of each sequence."""
    is_token = attention_mask.bool()
    return states[is_token][None], is_token.sum(1).tolist()


def unpack(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Reverses `pack`: [1, tokens, width] -> [batch, seq, width]; padding is 0."""
    padded = states.new_zeros(*attention_mask.shape, states.shape[-1])
    padded[attention_mask.bool()] = states[0]
    return padded


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Sequence[int] | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each packed sequence.

    Args:
        module: The layer.
        query: [1, heads, tokens, head_size].
        key: As `query`.
        value: As `query`.
        attention_mask: The number of tokens of each sequence. If None, query, key and value are an ordinary batch
            [batch, heads, seq, head_size] without padding.
        scaling: Factor of the attention scores.
        dropout: Dropout probability.
        kwargs: Ignored; other kernels use it.

    Returns:
        The context [1, tokens, heads, head_size], and None.
    """
    lengths = [query.shape[2]] if attention_mask is None else list(attention_mask)
    parts = (part.split(lengths, dim=2) for part in (query, key, value))
    contexts = [
        nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(contexts, dim=2).transpose(1, 2), None
