"""Padding that is not computed: the tokens of all rows in one sequence, through which attention goes row by row.

    fold(model).set_attn_implementation("mobilebert_packed")

Nearly all of a folded encoder's work is products of single tokens, which do not care whose row a token is in.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PACKED = "mobilebert_packed"


def pack(states: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[int]]:
    """States [batch, seq, width] without padding, [1, tokens, width], and how many tokens each row has."""
    kept = attention_mask.bool()
    return states[kept][None], kept.sum(1).tolist()


def unpack(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Packed states [1, tokens, width] where they were, [batch, seq, width]; padding is 0."""
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
    """Attention within each row of packed tokens.

    Args:
        module: The layer.
        query: [1, heads, tokens, head_size].
        key: Likewise.
        value: Likewise.
        attention_mask: How many tokens each row has; None where all are one batch [batch, heads, seq, head_size].
        scaling: Of the scores.
        dropout: Of the probabilities.
        kwargs: What other kernels take.

    Returns:
        The context [1, tokens, heads, head_size].
    """
    lengths = [query.shape[2]] if attention_mask is None else list(attention_mask)
    parts = (part.split(lengths, dim=2) for part in (query, key, value))
    contexts = [
        nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(contexts, dim=2).transpose(1, 2), None
