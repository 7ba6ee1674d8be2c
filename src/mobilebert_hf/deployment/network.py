"""A student's network as exporters like it: folded, with attention in plain operations that know no size."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..models import fold
from ..models.encoder import eager_attention_forward
from ..models.modeling_folded import FoldedMobileBertPreTrainedModel

# Tokenized text: inputs by name, [rows, tokens], int64.
Batches = Sequence[Mapping[str, Tensor]]

PLAIN = "mobilebert_plain"
# Added to the scores of padding. Far below any score, and far from the end of float32.
MASKED = -1e9


def _plain_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """[batch, 1, 1, seq], as it is added to the scores."""
    if attention_mask is None:
        return None
    return (1.0 - attention_mask.float())[:, None, None, :] * MASKED


def foldable(model: PreTrainedModel) -> bool:
    """Whether a student has norms that can be folded."""
    return model.config.normalization_type == "no_norm" and not isinstance(model, FoldedMobileBertPreTrainedModel)


def prepare(model: PreTrainedModel, *, folded: bool = True) -> PreTrainedModel:
    """A copy of a student with any head to trace, its norms folded if they can be, or not."""
    AttentionInterface.register(PLAIN, eager_attention_forward)
    AttentionMaskInterface.register(PLAIN, _plain_mask)
    network = fold(model) if folded and foldable(model) else deepcopy(model)
    network.set_attn_implementation(PLAIN)
    return network
