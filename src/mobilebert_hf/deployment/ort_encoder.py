"""The folded encoder in the form that is fastest in ONNX Runtime: 1 x 1 convolutions instead of linear layers.

ONNX Runtime fuses bias, activation and residual into convolutions and computes them in a channel-blocked layout. For
matrices as small as MobileBERT's this is faster than matmuls with separate operators, and than its fused attention.
All operators are standard ONNX, so other runtimes can run the graph.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.modeling_folded import (
    FoldedEncoder,
    FoldedFeedForward,
    FoldedLayer,
    FoldedMobileBertModel,
    FoldedResidual,
)


def lower(network: PreTrainedModel) -> None:
    """Replaces the encoder of a folded network by the equivalent `OrtEncoder`, in place."""
    base = cast(FoldedMobileBertModel, network.base_model)
    base.set_submodule("encoder", OrtEncoder(base.encoder))


class OrtEncoder(nn.Module):
    """`FoldedEncoder` over [batch, channels, seq, 1]."""

    def __init__(self, encoder: FoldedEncoder) -> None:
        super().__init__()
        self.layer = nn.ModuleList(OrtLayer(cast(FoldedLayer, layer)) for layer in encoder.layer)
        self.scale = nn.Parameter(encoder.scales[-1])

    def forward(self, hidden_states: Tensor, mask: Tensor | None, record: None = None, **kwargs: Any) -> Tensor:
        """[batch, seq, hidden_size] -> same shape; the mask [batch, 1, 1, seq] is added to the scores."""
        # This order of dimensions needs no transpose besides the change of layout.
        states = hidden_states.unsqueeze(2).permute(0, 3, 1, 2)
        # An identity convolution: only convolutions change to the channel-blocked layout.
        states = nn.functional.conv2d(states, states.new_ones(states.shape[1], 1, 1, 1), groups=states.shape[1])
        channel = None if mask is None else _mask_channel(mask, cast(OrtLayer, self.layer[0]).num_heads)
        for layer in self.layer:
            states = layer(states, channel)
        return states.permute(0, 2, 3, 1).squeeze(2) * self.scale


def _mask_channel(mask: Tensor, num_heads: int) -> Tensor:
    """Returns an extra channel for each head: ones for the query, the mask for the key.

    The matmul of query and key then adds the mask. A separate addition would read and write all scores again.

    Args:
        mask: The additive mask, [batch, 1, 1, seq].
        num_heads: Number of attention heads.

    Returns:
        [batch, 2 * num_heads, 1, seq].
    """
    key = mask.expand(-1, num_heads, -1, -1)
    return torch.cat([torch.ones_like(key), key], dim=1)


class OrtLayer(nn.Module):
    """`FoldedLayer` over [batch, channels, seq, 1]."""

    def __init__(self, layer: FoldedLayer) -> None:
        super().__init__()
        self.layer = layer
        width = layer.attention.dense.in_features
        self.num_heads = width // layer.head_size
        self.tiny = layer.narrow is not None
        sizes = [2 * width, width, *([] if self.tiny else [width])]
        rows = zip(layer.projection.weight.split(sizes), layer.projection.bias.split(sizes), strict=True)
        query_key, self.value, *narrow = (_linear(weight, bias) for weight, bias in rows)
        self.query_key = factor(query_key, width)
        [self.narrow] = narrow or [cast(nn.Linear, layer.narrow)]

    def forward(self, states: Tensor, channel: Tensor | None) -> Tensor:
        """[batch, hidden_size, seq, 1] -> same shape; `channel` comes from `_mask_channel`."""
        narrow = _conv(self.narrow, states)
        context = self._attend(narrow if self.tiny else states, channel)
        narrow = _residual(self.layer.attention, context, narrow)
        for feed_forward in cast(list[FoldedFeedForward], list(self.layer.ffn)):
            inner = feed_forward.activation(_conv(feed_forward.up, narrow))
            narrow = _residual(feed_forward.down, inner, narrow)
        return _residual(self.layer.output, narrow, states)

    def _attend(self, states: Tensor, channel: Tensor | None) -> Tensor:
        """[batch, channels, seq, 1] -> [batch, channels, seq, 1], with channels first, so without transposes."""
        batch, _, length, _ = states.shape
        value = _conv(self.value, states).reshape(batch, self.num_heads, -1, length)
        for linear in self.query_key:
            states = _conv(cast(nn.Linear, linear), states)
        both = states.reshape(batch, 2 * self.num_heads, -1, length)
        query, key = (both if channel is None else torch.cat([both, channel], dim=2)).chunk(2, dim=1)
        # The query weight includes the scaling of the scores.
        probabilities = (query.transpose(2, 3) @ key).softmax(dim=-1)
        context = value @ probabilities.transpose(2, 3)
        return context.reshape(batch, -1, length, 1)


def factor(linear: nn.Linear, rank: int) -> nn.Sequential:
    """Factors a linear layer into two smaller ones if its weight has the given rank.

    Folding merges query and key with their shared bottleneck, so their weight [2 x 128, 512] has rank 128.

    Args:
        linear: The layer.
        rank: The expected rank of its weight.

    Returns:
        Two layers, equal up to float32 rounding; or `linear` alone if the rank is higher or the factors are not
        smaller.
    """
    weight = linear.weight.detach().double()
    if rank * sum(weight.shape) >= weight.numel():
        return nn.Sequential(linear)
    # Normalize the rows, so that the error of each row is relative to its own norm.
    norms = weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    left, values, right = torch.linalg.svd(weight / norms, full_matrices=False)
    # The upper bound of what float32 rounding adds to the other singular values if the rows have norm 1.
    if values[rank:].norm() > torch.finfo(torch.float32).eps * len(weight) ** 0.5:
        return nn.Sequential(linear)
    outer, inner = left[:, :rank] * values[:rank] * norms, right[:rank]
    return nn.Sequential(_linear(inner), _linear(outer, linear.bias))


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


def _conv(linear: nn.Linear, states: Tensor) -> Tensor:
    return nn.functional.conv2d(states, linear.weight[:, :, None, None], linear.bias)


def _residual(step: FoldedResidual, states: Tensor, residual: Tensor) -> Tensor:
    if step.residual_scale is not None:
        residual = residual * step.residual_scale[:, None, None]
    return residual + _conv(step.dense, states)
