"""The statically quantized encoder in ONNX Runtime's int8 operators.

Linear layers become `QLinearConv`, which includes bias, relu (by clipping at the zero point) and requantization;
`MatMulIntegerToFloat` where the output is float32; and `QAttention`, which includes the query, key and value matmuls
and computes attention in float32. All use uint8 activations and int8 weights, for which x86 has instructions. States
are float32 between layers and uint8 inside a layer.
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
from .quantization import LARGEST_BIAS, QuantizedEmbedding, QuantizeDequantize, QuantizedLinear, ops

FUSED = "mobilebert_onnxruntime"
# Activations that quantization includes: it clips below 0 and, because calibrated ranges end there, above 6.
RELUS = ("relu", "relu6")


def _fused_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Returns the mask for `QAttention`, [batch, seq], int32."""
    return None if attention_mask is None else attention_mask.int()


def lower_int8(network: PreTrainedModel) -> None:
    """Replaces the encoder of a network after `quantize_static`, in place. The network can be traced but not run.

    Raises:
        ValueError: The activation function is not relu or relu6.
    """
    if network.config.hidden_act not in RELUS:
        raise ValueError(
            f"hidden_act={network.config.hidden_act!r}: int8-static for ONNX supports {' and '.join(RELUS)}. Use int8."
        )
    AttentionInterface.register(FUSED, lambda *args, **kwargs: None)  # unused: OrtInt8Layer computes attention
    AttentionMaskInterface.register(FUSED, _fused_mask)
    network.set_attn_implementation(FUSED)
    base = cast(FoldedMobileBertModel, network.base_model)
    base.set_submodule("encoder", OrtInt8Encoder(base.encoder))
    embeddings = base.embeddings
    point, linear = cast(nn.Sequential, cast(nn.Module, embeddings.embedding_transformation))
    quantize = _Quantize(point)
    projection = nn.Sequential(quantize, _MatMulToFloat(cast(QuantizedLinear, linear), quantize))
    embeddings.set_submodule("embedding_transformation", projection)
    for name in ("position_embeddings", "token_type_embeddings"):
        embeddings.set_submodule(name, OrtTable(cast(QuantizedEmbedding, embeddings.get_submodule(name))))


class OrtTable(nn.Module):
    """A small int8 embedding table. ONNX Runtime dequantizes it once when it loads the graph."""

    def __init__(self, embedding: QuantizedEmbedding) -> None:
        super().__init__()
        self.weight, self.scale = embedding.weight, embedding.scale

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        return nn.functional.embedding(ids, self.weight.to(self.scale.dtype) * self.scale[:, None])


class OrtInt8Encoder(nn.Module):
    """`FoldedEncoder` for tracing."""

    def __init__(self, encoder: FoldedEncoder) -> None:
        super().__init__()
        self.layer = nn.ModuleList(OrtInt8Layer(cast(FoldedLayer, layer)) for layer in encoder.layer)
        self.scale = nn.Parameter(encoder.scales[-1])

    def forward(self, hidden_states: Tensor, mask: Tensor, record: None = None, **kwargs: Any) -> Tensor:
        """[batch, seq, hidden_size], float32 -> same shape; the mask is [batch, seq], int32."""
        for layer in self.layer:
            hidden_states = layer(hidden_states, mask)
        return hidden_states * self.scale


class OrtInt8Layer(nn.Module):
    """`FoldedLayer` for tracing."""

    def __init__(self, layer: FoldedLayer) -> None:
        super().__init__()
        width = layer.config.intra_bottleneck_size
        self.num_heads = width // layer.head_size
        projection = cast(QuantizedLinear, cast(nn.Module, layer.projection))
        self.input, self.context = _Quantize(layer.input), _Quantize(layer.context)
        block = _Quantize(layer.block)
        self.narrow_first = layer.narrow is not None
        narrow = layer.narrow if self.narrow_first else projection
        rows = slice(None) if self.narrow_first else slice(3 * width, None)
        self.narrow = _MatMul(cast(QuantizedLinear, cast(nn.Module, narrow)), self.input, block, rows)
        self.attended = block if self.narrow_first else self.input
        self.attention_weight = nn.Buffer(projection.weight[: 3 * width].t().contiguous())
        self.attention_scale = nn.Buffer(projection.scale[: 3 * width])
        self.attention_zero = nn.Buffer(torch.zeros(3 * width, dtype=torch.int8))
        self.attention_bias = nn.Buffer(projection.bias.detach()[: 3 * width])
        self.steps = nn.ModuleList([_Residual(layer.attention, self.context, block)])
        for ffn in cast(list[FoldedFeedForward], list(layer.ffn)):
            before = cast(_Residual, self.steps[-1]).sum
            inner = _Quantize(ffn.inner)
            up = _MatMul(cast(QuantizedLinear, cast(nn.Module, ffn.up)), before, inner)
            self.steps.append(_Residual(ffn.down, inner, before, up))
        out = layer.output
        before = cast(_Residual, self.steps[-1]).sum
        self.output = _MatMulToFloat(cast(QuantizedLinear, cast(nn.Module, out.dense)), before)
        self.residual_scale = out.residual_scale

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[batch, seq, hidden_size], float32 -> same shape, float32."""
        inputs = self.input(states)
        narrow = self.narrow(inputs)
        hidden = self.context(self._attend(narrow if self.narrow_first else inputs, mask))
        for step in self.steps:
            narrow = step(narrow if cast(_Residual, step).up is not None else hidden, narrow)
        residual = states if self.residual_scale is None else states * self.residual_scale
        return residual + self.output(narrow)

    def _attend(self, inputs: Tensor, mask: Tensor) -> Tensor:
        quantize = self.attended
        return torch.onnx.ops.symbolic(
            "com.microsoft::QAttention",
            (
                *(inputs, self.attention_weight, self.attention_bias, quantize.scale, self.attention_scale),
                *(mask, quantize.zero_point, self.attention_zero),
            ),
            # The query weight includes the scaling of the scores.
            {"num_heads": self.num_heads, "scale": 1.0, "mask_filter_value": MASKED},
            dtype=torch.float32,
            shape=(*inputs.shape[:2], self.attention_weight.shape[1] // 3),
        )


class _Quantize(nn.Module):
    """Quantizes to uint8. `scale` (float32) and `zero_point` (uint8) are inputs of ONNX operators."""

    def __init__(self, point: nn.Module) -> None:
        super().__init__()
        assert isinstance(point, QuantizeDequantize)
        self.point = point
        self.scale = nn.Buffer(torch.tensor(point.scale, dtype=torch.float32))
        self.zero_point = nn.Buffer(torch.tensor(point.zero_point, dtype=torch.uint8))

    def forward(self, states: Tensor) -> Tensor:
        """float32 -> uint8."""
        return ops.quantize_per_tensor(states, *self.point.qparams)

    def dequantize(self, states: Tensor) -> Tensor:
        """uint8 -> float32."""
        return ops.dequantize_per_tensor(states, *self.point.qparams)


class _MatMul(nn.Module):
    """A linear layer with uint8 input and output, or the given rows (output channels) of it."""

    def __init__(
        self, linear: QuantizedLinear, inputs: _Quantize, outputs: _Quantize, rows: slice = slice(None)
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        bias, found = linear.bias.detach()[rows].double(), linear.scale[rows].double()
        # The bias is stored in units of the row's scale. If the weights are tiny, the bias determines the scale.
        scale = torch.maximum(found, bias.abs() / (LARGEST_BIAS * inputs.point.scale))
        weight = linear.weight[rows] * (found / scale)[:, None]
        self.weight = nn.Buffer(weight.round().to(torch.int8)[:, :, None].contiguous())
        self.scale = nn.Buffer(scale.float())
        self.zero_point = nn.Buffer(torch.zeros(len(scale), dtype=torch.int8))
        self.bias = nn.Buffer((bias / (scale * inputs.point.scale)).round().to(torch.int32))

    def forward(self, states: Tensor) -> Tensor:
        """[batch, seq, in], uint8 -> [batch, seq, out], uint8."""
        return torch.onnx.ops.symbolic(
            "com.microsoft::QLinearConv",
            (
                *(states, self.inputs.scale, self.inputs.zero_point, self.weight, self.scale, self.zero_point),
                *(self.outputs.scale, self.outputs.zero_point, self.bias),
            ),
            {"channels_last": 1, "kernel_shape": [1]},
            dtype=torch.uint8,
            shape=(*states.shape[:2], self.weight.shape[0]),
        )


class _MatMulToFloat(nn.Module):
    """A linear layer with uint8 input and float32 output."""

    def __init__(self, linear: QuantizedLinear, inputs: _Quantize) -> None:
        super().__init__()
        self.inputs = inputs
        self.weight = nn.Buffer(linear.weight.t().contiguous())
        self.scale, self.bias = linear.scale, linear.bias
        self.zero_point = nn.Buffer(torch.zeros(len(self.scale), dtype=torch.int8))

    def forward(self, states: Tensor) -> Tensor:
        """[batch, seq, in], uint8 -> [batch, seq, out], float32."""
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (
                *(states, self.weight, self.inputs.scale, self.scale),
                *(self.inputs.zero_point, self.zero_point, self.bias),
            ),
            dtype=torch.float32,
            shape=(*states.shape[:-1], self.weight.shape[1]),
        )


class _Residual(nn.Module):
    """residual + down(up(states)) in uint8; `up` is optional."""

    def __init__(
        self, step: FoldedResidual, inputs: _Quantize, residual: _Quantize, up: _MatMul | None = None
    ) -> None:
        super().__init__()
        self.up, self.residual, self.residual_scale = up, residual, step.residual_scale
        self.branch, self.sum = _Quantize(step.branch), _Quantize(step.sum)
        self.down = _MatMul(cast(QuantizedLinear, cast(nn.Module, step.dense)), inputs, self.branch)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """states [batch, seq, in] and residual [batch, seq, out], uint8 -> [batch, seq, out], uint8."""
        branch = self.down(states if self.up is None else self.up(states))
        if self.residual_scale is not None:
            scaled = self.residual.dequantize(residual) * self.residual_scale
            return self.sum(scaled + self.branch.dequantize(branch))
        qparams = [(point.scale, point.zero_point) for point in (self.residual, self.branch, self.sum)]
        return torch.onnx.ops.symbolic(
            "com.microsoft::QLinearAdd",
            (residual, *qparams[0], branch, *qparams[1], *qparams[2]),
            dtype=torch.uint8,
            shape=tuple(residual.shape),
        )
