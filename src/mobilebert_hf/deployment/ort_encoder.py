"""The folded encoder as ONNX Runtime is fastest with it: 1 x 1 convolutions, and its own fused attention.

ONNX Runtime has bias, activation and residual inside its convolutions, in a layout blocked by channels. With products
as small as a MobileBERT's, that is faster than matrix products with operations between them. Its `Attention` takes the
products of query, key and value along, and the mask. The graph is for ONNX Runtime only: `Attention` is an operator of
its domain, `com.microsoft`.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..models.modeling_folded import (
    FoldedEncoder,
    FoldedFeedForward,
    FoldedLayer,
    FoldedMobileBertModel,
    FoldedResidual,
)
from .network import MASKED

FUSED = "mobilebert_onnxruntime"


def _fused_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """[batch, seq], int32, as `Attention` takes it."""
    return None if attention_mask is None else attention_mask.int()


# Attention itself is in the layer.
AttentionInterface.register(FUSED, lambda *args, **kwargs: None)
AttentionMaskInterface.register(FUSED, _fused_mask)


def lower(network: PreTrainedModel) -> None:
    """Gives a folded network this encoder; it can be traced then, and no longer run."""
    network.set_attn_implementation(FUSED)
    base = cast(FoldedMobileBertModel, network.base_model)
    base.set_submodule("encoder", OrtEncoder(base.encoder))


class OrtEncoder(nn.Module):
    """`FoldedEncoder` over [batch, channels, seq, 1]."""

    def __init__(self, encoder: FoldedEncoder) -> None:
        super().__init__()
        self.layer = nn.ModuleList(OrtLayer(cast(FoldedLayer, layer)) for layer in encoder.layer)
        self.scale = nn.Parameter(encoder.scales[-1])

    def forward(self, hidden_states: Tensor, mask: Tensor, record: None = None, **kwargs: Any) -> Tensor:
        """[batch, seq, hidden_size] -> the same; the mask is `_fused_mask`'s."""
        states = _from_tokens(hidden_states)
        # Does nothing but to bring the state into the blocked layout, which only convolutions enter.
        states = nn.functional.conv2d(states, states.new_ones(states.shape[1], 1, 1, 1), groups=states.shape[1])
        for layer in self.layer:
            states = layer(states, mask)
        return _to_tokens(states) * self.scale


class OrtLayer(nn.Module):
    """`FoldedLayer` over [batch, channels, seq, 1]."""

    def __init__(self, layer: FoldedLayer) -> None:
        super().__init__()
        self.layer = layer
        weight, bias = layer.projection.weight, layer.projection.bias
        width = layer.attention.dense.in_features
        # `Attention` reads a product's weight the other way round.
        self.attention_weight = nn.Parameter(weight[: 3 * width].t().contiguous())
        self.attention_bias = nn.Parameter(bias[: 3 * width])
        narrow = layer.narrow
        self.narrow_weight = nn.Parameter(weight[3 * width :] if narrow is None else narrow.weight)
        self.narrow_bias = nn.Parameter(bias[3 * width :] if narrow is None else narrow.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[batch, hidden_size, seq, 1] -> the same."""
        narrow = _product(self.narrow_weight, self.narrow_bias, states)
        context = self._attend(states if self.layer.narrow is None else narrow, mask)
        narrow = _residual(self.layer.attention, context, narrow)
        for feed_forward in cast(list[FoldedFeedForward], list(self.layer.ffn)):
            inner = feed_forward.activation(_product(feed_forward.up.weight, feed_forward.up.bias, narrow))
            narrow = _residual(feed_forward.down, inner, narrow)
        return _residual(self.layer.output, narrow, states)

    def _attend(self, states: Tensor, mask: Tensor) -> Tensor:
        tokens = _to_tokens(states)
        width = self.attention_weight.shape[1] // 3
        context = torch.onnx.ops.symbolic(
            "com.microsoft::Attention",
            (tokens, self.attention_weight, self.attention_bias, mask),
            # The query's weight contains the scores' factor.
            {"num_heads": width // self.layer.head_size, "scale": 1.0, "mask_filter_value": MASKED},
            dtype=tokens.dtype,
            shape=(*tokens.shape[:2], width),
        )
        return _from_tokens(context)


def _to_tokens(states: Tensor) -> Tensor:
    """[batch, channels, seq, 1] -> [batch, seq, channels], by the transposition that costs nothing with the layout."""
    return states.permute(0, 2, 3, 1).squeeze(2)


def _from_tokens(tokens: Tensor) -> Tensor:
    """The other way."""
    return tokens.unsqueeze(2).permute(0, 3, 1, 2)


def _product(weight: Tensor, bias: Tensor, states: Tensor) -> Tensor:
    return nn.functional.conv2d(states, weight[:, :, None, None], bias)


def _residual(step: FoldedResidual, states: Tensor, residual: Tensor) -> Tensor:
    if step.keep is not None:
        residual = residual * step.keep[:, None, None]
    return residual + _product(step.dense.weight, step.dense.bias, states)
