"""Rewrites a network for LiteRT: batch size 1, and no constant that depends on the sequence length.

The converter traces a network with one length and writes it into every shape. In this form every shape contains the
length at most once, and no constant does, so `make_length_dynamic` can replace it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..models.encoder import Embeddings
from .network import MASKED

SINGLE_SEQUENCE = "mobilebert_single_sequence"


class SingleSequenceEmbeddings(nn.Module):
    """Embeddings that compute position ids by `cumsum`. `torch.arange` would become a constant of fixed length."""

    def __init__(self, embeddings: Embeddings) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: None,
        inputs_embeds: None,
        attention_mask: Tensor,
    ) -> Tensor:
        """[1, seq], int64 -> [1, seq, hidden_size], like `Embeddings` in evaluation mode."""
        parts = self.embeddings
        positions = torch.cumsum((attention_mask[0] >= 0).int(), 0) - 1
        states = parts.word_embeddings(input_ids)[0]
        if parts.mask_padding:
            states = states * attention_mask[0].to(states.dtype)[:, None]
        if parts.trigram_input:
            padded = nn.functional.pad(states, (0, 0, 1, 1))
            states = torch.cat([padded[positions + 2], states, padded[positions]], dim=1)
        states = states[None]
        if parts.project:
            states = parts.embedding_transformation(states)
        states = states + parts.position_embeddings(positions) + parts.token_type_embeddings(token_type_ids)
        return parts.LayerNorm(states)


def single_sequence_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Eager attention for batch size 1, with three-dimensional matmuls.

    Args:
        module: The attention layer (unused).
        query: [1, heads, seq, head_size].
        key: [1, heads, seq, head_size].
        value: [1, heads, seq, head_size].
        attention_mask: [1, seq], added to the scores.
        scaling: Factor of the scores.
        dropout: Unused: the network is in evaluation mode.
        kwargs: Arguments of other attention functions (unused).

    Returns:
        The context [1, seq, heads, head_size], and no attention probabilities.
    """
    scores = query[0] @ key[0].transpose(1, 2)
    if scaling != 1.0:
        scores = scores * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    return (nn.functional.softmax(scores, dim=-1) @ value[0]).transpose(0, 1)[None], None


def _single_sequence_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    return None if attention_mask is None else (1.0 - attention_mask.float()) * MASKED


def use_single_sequence(network: PreTrainedModel) -> PreTrainedModel:
    """Rewrites a network in place for inputs [1, seq] of any length, and returns it."""
    AttentionInterface.register(SINGLE_SEQUENCE, single_sequence_attention_forward)
    AttentionMaskInterface.register(SINGLE_SEQUENCE, _single_sequence_mask)
    base: Any = network.base_model
    base.embeddings = SingleSequenceEmbeddings(base.embeddings)
    network.set_attn_implementation(SINGLE_SEQUENCE)
    return network
