"""A network as LiteRT likes it: for one text, and with nothing in it that knows how long the text is.

The converter takes a network for one length, and writes that length into every shape. In the form of this module each
shape has at most one such place, and no weight has any, so that the length can be taken out of the graph again.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..models.encoder import Embeddings
from .network import MASKED

ONE_TEXT = "mobilebert_one_text"


class OneTextEmbeddings(nn.Module):
    """The embeddings of a network, which count places in the text: of `torch.arange` a constant would be made."""

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
        """Ids [1, seq] -> [1, seq, hidden_size], as `Embeddings` in evaluation mode."""
        parts = self.embeddings
        places = torch.cumsum((attention_mask[0] >= 0).int(), 0) - 1
        words = parts.word_embeddings(input_ids)[0]
        if parts.mask_padding:
            words = words * attention_mask[0].to(words.dtype)[:, None]
        if parts.trigram_input:
            around = nn.functional.pad(words, (0, 0, 1, 1))
            words = torch.cat([around[places + 2], words, around[places]], dim=1)
        words = words[None]
        if parts.project:
            words = parts.embedding_transformation(words)
        return parts.LayerNorm(words + parts.position_embeddings(places) + parts.token_type_embeddings(token_type_ids))


def one_text_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The plain kernel of the library's attention interface, in three dimensions.

    Args:
        module: The layer.
        query: [1, heads, seq, head_size].
        key: Likewise.
        value: Likewise.
        attention_mask: [1, seq], added to the scores.
        scaling: Of the scores.
        dropout: Is none.
        kwargs: What other kernels take.

    Returns:
        The context [1, seq, heads, head_size].
    """
    scores = query[0] @ key[0].transpose(1, 2)
    if scaling != 1.0:
        scores = scores * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    return (nn.functional.softmax(scores, dim=-1) @ value[0]).transpose(0, 1)[None], None


def _one_text_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    return None if attention_mask is None else (1.0 - attention_mask.float()) * MASKED


def for_one_text(network: PreTrainedModel) -> PreTrainedModel:
    """Changes a network in place: of what it is given, [1, seq], it takes any length, also when it is converted."""
    AttentionInterface.register(ONE_TEXT, one_text_attention_forward)
    AttentionMaskInterface.register(ONE_TEXT, _one_text_mask)
    base: Any = network.base_model
    base.embeddings = OneTextEmbeddings(base.embeddings)
    network.set_attn_implementation(ONE_TEXT)
    return network
