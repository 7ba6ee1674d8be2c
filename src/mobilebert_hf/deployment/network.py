"""Prepares a student for export: folds the norms and uses attention without fixed sizes."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..models import fold
from ..models.encoder import eager_attention_forward
from ..models.modeling_folded import FoldedMobileBertPreTrainedModel

# Batches of model inputs by name, each [batch, seq], int64.
Batches = Sequence[Mapping[str, Tensor]]

EXPORT_ATTENTION = "mobilebert_export"
# Added to the attention scores of padding: far below any score, and far from the float32 limit.
MASKED = -1e9


def _additive_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Returns the mask that is added to the scores, [batch, 1, 1, seq], float32."""
    if attention_mask is None:
        return None
    return (1.0 - attention_mask.float())[:, None, None, :] * MASKED


def foldable(model: PreTrainedModel) -> bool:
    """Returns whether a student has norms that can be folded."""
    return model.config.normalization_type == "no_norm" and not isinstance(model, FoldedMobileBertPreTrainedModel)


def prepare_for_export(model: PreTrainedModel, *, folded: bool = True) -> PreTrainedModel:
    """Returns a copy of a student with any head that can be traced, folded if `folded` and if it is foldable."""
    AttentionInterface.register(EXPORT_ATTENTION, eager_attention_forward)
    AttentionMaskInterface.register(EXPORT_ATTENTION, _additive_mask)
    network = fold(model) if folded and foldable(model) else deepcopy(model)
    network.set_attn_implementation(EXPORT_ATTENTION)
    return network
