"""The folded encoder as ONNX Runtime is fastest with it: 1 x 1 convolutions, and attention between them.

ONNX Runtime has bias, activation and residual inside its convolutions, in a layout blocked by channels. With products
as small as a MobileBERT's, that is faster than matrix products with operations between them, and than its own fused
attention. Every operator is of the standard; other runtimes run the graph, too.
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
    """Gives a folded network this encoder, which says the same."""
    base = cast(FoldedMobileBertModel, network.base_model)
    base.set_submodule("encoder", OrtEncoder(base.encoder))


class OrtEncoder(nn.Module):
    """`FoldedEncoder` over [batch, channels, seq, 1]."""

    def __init__(self, encoder: FoldedEncoder) -> None:
        super().__init__()
        self.layer = nn.ModuleList(OrtLayer(cast(FoldedLayer, layer)) for layer in encoder.layer)
        self.scale = nn.Parameter(encoder.scales[-1])

    def forward(self, hidden_states: Tensor, mask: Tensor | None, record: None = None, **kwargs: Any) -> Tensor:
        """[batch, seq, hidden_size] -> the same; the mask, [batch, 1, 1, seq], is added to the scores."""
        # Of all transpositions, these cost nothing beside the change of layout.
        states = hidden_states.unsqueeze(2).permute(0, 3, 1, 2)
        # Does nothing but to bring the state into the blocked layout, which only convolutions enter.
        states = nn.functional.conv2d(states, states.new_ones(states.shape[1], 1, 1, 1), groups=states.shape[1])
        channel = None if mask is None else _mask_channel(mask, cast(OrtLayer, self.layer[0]).num_heads)
        for layer in self.layer:
            states = layer(states, channel)
        return states.permute(0, 2, 3, 1).squeeze(2) * self.scale


def _mask_channel(mask: Tensor, num_heads: int) -> Tensor:
    """One more channel for each head of the query, all ones, and of the key: the mask, which their product adds.

    An addition would read and write all scores once more.

    Args:
        mask: What is added to the scores, [batch, 1, 1, seq].
        num_heads: The number of heads.

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
        """[batch, hidden_size, seq, 1] -> the same; the channel is `_mask_channel`'s."""
        narrow = _product(self.narrow, states)
        context = self._attend(narrow if self.tiny else states, channel)
        narrow = _residual(self.layer.attention, context, narrow)
        for feed_forward in cast(list[FoldedFeedForward], list(self.layer.ffn)):
            inner = feed_forward.activation(_product(feed_forward.up, narrow))
            narrow = _residual(feed_forward.down, inner, narrow)
        return _residual(self.layer.output, narrow, states)

    def _attend(self, states: Tensor, channel: Tensor | None) -> Tensor:
        """With channels before tokens, as convolutions have them, nothing has to be transposed."""
        batch, _, length, _ = states.shape
        value = _product(self.value, states).reshape(batch, self.num_heads, -1, length)
        for linear in self.query_key:
            states = _product(cast(nn.Linear, linear), states)
        both = states.reshape(batch, 2 * self.num_heads, -1, length)
        query, key = (both if channel is None else torch.cat([both, channel], dim=2)).chunk(2, dim=1)
        # The query's weight contains the scores' factor.
        probabilities = (query.transpose(2, 3) @ key).softmax(dim=-1)
        context = value @ probabilities.transpose(2, 3)
        return context.reshape(batch, -1, length, 1)


def factor(linear: nn.Linear, rank: int) -> nn.Sequential:
    """A product as two that together are less, if it is of this rank; else as it is.

    Query and key are folded with the bottleneck that both read, so that their weight [2 x 128, 512] has rank 128.

    Args:
        linear: The product.
        rank: Of its weight, or not.

    Returns:
        One product, or two, which give the same but for the last bits of float32.
    """
    weight = linear.weight.detach().double()
    if rank * sum(weight.shape) >= weight.numel():
        return nn.Sequential(linear)
    # Rows may be of any size; each is to be exact for its own.
    sizes = weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    left, values, right = torch.linalg.svd(weight / sizes, full_matrices=False)
    # Beside a weight's rank, rounding to float32 leaves this much of rows of norm 1, and no more.
    if values[rank:].norm() > torch.finfo(torch.float32).eps * len(weight) ** 0.5:
        return nn.Sequential(linear)
    outer, inner = left[:, :rank] * values[:rank] * sizes, right[:rank]
    return nn.Sequential(_linear(inner), _linear(outer, linear.bias))


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


def _product(linear: nn.Linear, states: Tensor) -> Tensor:
    return nn.functional.conv2d(states, linear.weight[:, :, None, None], linear.bias)


def _residual(step: FoldedResidual, states: Tensor, residual: Tensor) -> Tensor:
    if step.residual_scale is not None:
        residual = residual * step.residual_scale[:, None, None]
    return residual + _product(step.dense, states)
