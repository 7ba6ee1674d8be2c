"""The statically quantized encoder in ONNX Runtime's own 8-bit operators.

Products are `QLinearConv`, which adds the bias, cuts off below zero where a relu follows, and rounds to 8 bits again;
where float32 is wanted, `MatMulIntegerToFloat`; query, key and value are products inside `QAttention`, which attends
in float32. All of them take unsigned activations and signed weights, for which x86 has instructions. The state between
layers is float32, that inside a layer 8-bit.
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
from .quantization import LARGEST_BIAS, Quantized, QuantizedEmbedding, QuantizedLinear, ops

FUSED = "mobilebert_onnxruntime"
# What rounding to 8 bits does by itself: it cuts off what is below zero, and, as ranges do not go further, above 6.
RELUS = ("relu", "relu6")


def _fused_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """[batch, seq], int32, as `QAttention` takes it."""
    return None if attention_mask is None else attention_mask.int()


def lower_int8(network: PreTrainedModel) -> None:
    """Gives a network that `quantize_static` quantized this encoder; it can be traced then, and no longer run.

    Raises:
        ValueError: Its activation function is not relu or relu6.
    """
    if network.config.hidden_act not in RELUS:
        raise ValueError(
            f"hidden_act={network.config.hidden_act!r}: int8-static on ONNX Runtime goes with relu and relu6 alone."
        )
    AttentionInterface.register(FUSED, lambda *args, **kwargs: None)  # attention itself is in the layer
    AttentionMaskInterface.register(FUSED, _fused_mask)
    network.set_attn_implementation(FUSED)
    base = cast(FoldedMobileBertModel, network.base_model)
    base.set_submodule("encoder", OrtInt8Encoder(base.encoder))
    embeddings = base.embeddings
    point, linear = cast(nn.Sequential, cast(nn.Module, embeddings.embedding_transformation))
    read = _Place(point)
    projection = nn.Sequential(read, _ProductToFloat(cast(QuantizedLinear, linear), read))
    embeddings.set_submodule("embedding_transformation", projection)
    for name in ("position_embeddings", "token_type_embeddings"):
        embeddings.set_submodule(name, OrtTable(cast(QuantizedEmbedding, embeddings.get_submodule(name))))


class OrtTable(nn.Module):
    """A short table of 8 bits, which ONNX Runtime makes one of float32 when it loads the graph."""

    def __init__(self, embedding: QuantizedEmbedding) -> None:
        super().__init__()
        self.weight, self.scale = embedding.weight, embedding.scale

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        return nn.functional.embedding(ids, self.weight.to(self.scale.dtype) * self.scale[:, None])


class OrtInt8Encoder(nn.Module):
    """`FoldedEncoder`, to trace."""

    def __init__(self, encoder: FoldedEncoder) -> None:
        super().__init__()
        self.layer = nn.ModuleList(OrtInt8Layer(cast(FoldedLayer, layer)) for layer in encoder.layer)
        self.scale = nn.Parameter(encoder.scales[-1])

    def forward(self, hidden_states: Tensor, mask: Tensor, record: None = None, **kwargs: Any) -> Tensor:
        """[batch, seq, hidden_size] -> the same; the mask is [batch, seq], int32."""
        for layer in self.layer:
            hidden_states = layer(hidden_states, mask)
        return hidden_states * self.scale


class OrtInt8Layer(nn.Module):
    """`FoldedLayer`, to trace."""

    def __init__(self, layer: FoldedLayer) -> None:
        super().__init__()
        width = layer.config.intra_bottleneck_size
        self.num_heads = width // layer.head_size
        projection = cast(QuantizedLinear, cast(nn.Module, layer.projection))
        self.input, self.context = _Place(layer.input), _Place(layer.context)
        block = _Place(layer.block)
        self.narrow_first = layer.narrow is not None
        narrow = layer.narrow if self.narrow_first else projection
        rows = slice(None) if self.narrow_first else slice(3 * width, None)
        self.narrow = _Product(cast(QuantizedLinear, cast(nn.Module, narrow)), self.input, block, rows)
        self.attended = block if self.narrow_first else self.input
        self.attention_weight = nn.Buffer(projection.weight[: 3 * width].t().contiguous())
        self.attention_scale = nn.Buffer(projection.scale[: 3 * width])
        self.attention_zero = nn.Buffer(torch.zeros(3 * width, dtype=torch.int8))
        self.attention_bias = nn.Buffer(projection.bias.detach()[: 3 * width])
        self.steps = nn.ModuleList([_Residual(layer.attention, self.context, block)])
        for ffn in cast(list[FoldedFeedForward], list(layer.ffn)):
            before = cast(_Residual, self.steps[-1]).sum
            inner = _Place(ffn.inner)
            up = _Product(cast(QuantizedLinear, cast(nn.Module, ffn.up)), before, inner)
            self.steps.append(_Residual(ffn.down, inner, before, up))
        out = layer.output
        before = cast(_Residual, self.steps[-1]).sum
        self.output = _ProductToFloat(cast(QuantizedLinear, cast(nn.Module, out.dense)), before)
        self.residual_scale = out.residual_scale

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[batch, seq, hidden_size], float32 -> the same."""
        inputs = self.input(states)
        narrow = self.narrow(inputs)
        hidden = self.context(self._attend(narrow if self.narrow_first else inputs, mask))
        for step in self.steps:
            narrow = step(narrow if cast(_Residual, step).up is not None else hidden, narrow)
        residual = states if self.residual_scale is None else states * self.residual_scale
        return residual + self.output(narrow)

    def _attend(self, inputs: Tensor, mask: Tensor) -> Tensor:
        place = self.attended
        return torch.onnx.ops.symbolic(
            "com.microsoft::QAttention",
            (
                *(inputs, self.attention_weight, self.attention_bias, place.scale, self.attention_scale),
                *(mask, place.zero_point, self.attention_zero),
            ),
            # The query's weight contains the scores' factor.
            {"num_heads": self.num_heads, "scale": 1.0, "mask_filter_value": MASKED},
            dtype=torch.float32,
            shape=(*inputs.shape[:2], self.attention_weight.shape[1] // 3),
        )


class _Place(nn.Module):
    """A quantization point, after which values are in 8 bits; its scale and zero point as operators take them."""

    def __init__(self, point: nn.Module) -> None:
        super().__init__()
        assert isinstance(point, Quantized)
        self.point = point
        self.scale = nn.Buffer(torch.tensor(point.scale, dtype=torch.float32))
        self.zero_point = nn.Buffer(torch.tensor(point.zero_point, dtype=torch.uint8))

    def forward(self, states: Tensor) -> Tensor:
        """float32 -> uint8."""
        return ops.quantize_per_tensor(states, *self.point.places)

    def dequantize(self, states: Tensor) -> Tensor:
        """uint8 -> float32."""
        return ops.dequantize_per_tensor(states, *self.point.places)


class _Product(nn.Module):
    """A product with bias: 8 bits in, 8 bits out."""

    def __init__(self, linear: QuantizedLinear, read: _Place, written: _Place, rows: slice = slice(None)) -> None:
        super().__init__()
        self.read, self.written = read, written
        bias, found = linear.bias.detach()[rows].double(), linear.scale[rows].double()
        # The bias has the row's scale: where weights are next to nothing beside it, the scale is the bias'.
        scale = torch.maximum(found, bias.abs() / (LARGEST_BIAS * read.point.scale))
        weight = linear.weight[rows] * (found / scale)[:, None]
        self.weight = nn.Buffer(weight.round().to(torch.int8)[:, :, None].contiguous())
        self.scale = nn.Buffer(scale.float())
        self.zero_point = nn.Buffer(torch.zeros(len(scale), dtype=torch.int8))
        self.bias = nn.Buffer((bias / (scale * read.point.scale)).round().to(torch.int32))

    def forward(self, states: Tensor) -> Tensor:
        """[batch, seq, in], uint8 -> [batch, seq, out], uint8."""
        return torch.onnx.ops.symbolic(
            "com.microsoft::QLinearConv",
            (
                *(states, self.read.scale, self.read.zero_point, self.weight, self.scale, self.zero_point),
                *(self.written.scale, self.written.zero_point, self.bias),
            ),
            {"channels_last": 1, "kernel_shape": [1]},
            dtype=torch.uint8,
            shape=(*states.shape[:2], self.weight.shape[0]),
        )


class _ProductToFloat(nn.Module):
    """A product with bias: 8 bits in, float32 out."""

    def __init__(self, linear: QuantizedLinear, read: _Place) -> None:
        super().__init__()
        self.read = read
        self.weight = nn.Buffer(linear.weight.t().contiguous())
        self.scale, self.bias = linear.scale, linear.bias
        self.zero_point = nn.Buffer(torch.zeros(len(self.scale), dtype=torch.int8))

    def forward(self, states: Tensor) -> Tensor:
        """[batch, seq, in], uint8 -> [batch, seq, out], float32."""
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (
                *(states, self.weight, self.read.scale, self.scale),
                *(self.read.zero_point, self.zero_point, self.bias),
            ),
            dtype=torch.float32,
            shape=(*states.shape[:-1], self.weight.shape[1]),
        )


class _Residual(nn.Module):
    """A residual step, with the product before it where there is one; all in 8 bits."""

    def __init__(self, step: FoldedResidual, read: _Place, residual: _Place, up: _Product | None = None) -> None:
        super().__init__()
        self.up, self.residual, self.residual_scale = up, residual, step.residual_scale
        self.branch, self.sum = _Place(step.branch), _Place(step.sum)
        self.down = _Product(cast(QuantizedLinear, cast(nn.Module, step.dense)), read, self.branch)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """[batch, seq, in] and [batch, seq, out], uint8 -> the latter."""
        branch = self.down(states if self.up is None else self.up(states))
        if self.residual_scale is not None:
            kept = self.residual.dequantize(residual) * self.residual_scale
            return self.sum(kept + self.branch.dequantize(branch))
        places = [(place.scale, place.zero_point) for place in (self.residual, self.branch, self.sum)]
        return torch.onnx.ops.symbolic(
            "com.microsoft::QLinearAdd",
            (residual, *places[0], branch, *places[1], *places[2]),
            dtype=torch.uint8,
            shape=tuple(residual.shape),
        )
