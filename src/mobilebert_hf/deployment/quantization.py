"""Static int8 quantization of a folded network.

Activations are uint8 with one scale and zero point per tensor; weights are symmetric int8 with one scale per row
(output channel). The residual stream between layers, attention scores, softmax and heads stay in float32.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.ao.quantization import MinMaxObserver
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (defines torch.ops.quantized_decomposed)
from transformers import PreTrainedModel

from ..models.fake_quantization import (
    HIGHEST,
    LOWEST,
    FakeQuantizedActivation,
    QuantizationPoint,
    matmul_scales,
    replace,
    row_scales,
)
from ..models.modeling_folded import FoldedMobileBertModel
from .network import Batches

ops = torch.ops.quantized_decomposed
# Largest int32 bias, in units of input scale * weight scale. Leaves headroom for the sum of products it is added to.
LARGEST_BIAS = 2**30


class QuantizeDequantize(nn.Module):
    """Rounds an activation to uint8: scale * (q - zero_point), q from 0 to 255."""

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.scale, self.zero_point = scale.item(), int(zero_point.item())
        self.qparams = (self.scale, self.zero_point, LOWEST, HIGHEST, torch.uint8)

    def forward(self, states: Tensor) -> Tensor:
        """Any shape, float32 -> same shape, float32."""
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(states, *self.qparams), *self.qparams)


class QuantizedLinear(nn.Module):
    """`nn.Linear` with int8 weights: row r is scale[r] * weight[r]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale, self.weight = _quantize_rows(linear.weight, matmul_scales(linear.weight))
        self.zero_point = nn.Buffer(torch.zeros_like(self.scale, dtype=torch.int64))
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = ops.dequantize_per_channel(
            self.weight, self.scale, self.zero_point, axis=0, quant_min=-128, quant_max=127, dtype=torch.int8
        )
        return nn.functional.linear(states, weight, self.bias)


class QuantizedEmbedding(nn.Module):
    """`nn.Embedding` with an int8 table: row r is scale[r] * weight[r]."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.scale, self.weight = _quantize_rows(embedding.weight, row_scales(embedding.weight))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        return self.weight[ids].to(self.scale.dtype) * self.scale[ids][..., None]


def _quantize_rows(weight: Tensor, scales: Tensor) -> tuple[nn.Buffer, nn.Buffer]:
    """Returns the scales [out] and the symmetric int8 weight [out, in]."""
    return nn.Buffer(scales), nn.Buffer((weight.detach() / scales[:, None]).round().to(torch.int8))


@torch.inference_mode()
def quantize_static(network: PreTrainedModel, calibration: Batches) -> None:
    """Quantizes the embeddings and the encoder of a folded network in place.

    Args:
        network: The folded network.
        calibration: Batches for calibrating activation ranges. Empty for a quantization-aware network, which has
            learned its ranges.
    """
    base = cast(FoldedMobileBertModel, network.base_model)
    replace(base, FakeQuantizedActivation, lambda point: QuantizeDequantize(*point.grid()))
    replace(base, QuantizationPoint, lambda point: MinMaxObserver(dtype=torch.quint8))
    for batch in calibration:
        network(**batch)
    replace(base, MinMaxObserver, lambda observer: QuantizeDequantize(*observer.calculate_qparams()))
    for part in (base.embeddings, base.encoder):  # the pooler is not quantized
        replace(part, nn.Linear, QuantizedLinear)
    replace(base.embeddings, nn.Embedding, QuantizedEmbedding)


@torch.inference_mode()
def fit_biases_to_int32(network: PreTrainedModel, calibration: Batches) -> None:
    """Raises a weight in rows of a folded network's linear layers whose bias would overflow int32, in place.

    Quantizers store a bias as int32 in units of weight scale * input scale. If a row's weights are almost 0, for
    example after folding a norm whose weight is 0, its scale is too small and the bias is clipped. The raised weight
    changes the output by at most 127 * 255 / `LARGEST_BIAS` of the bias.

    Args:
        network: The folded network.
        calibration: Batches for measuring the input ranges of the linear layers.
    """
    base = cast(FoldedMobileBertModel, network.base_model)
    ranges: dict[nn.Linear, Tensor] = {}

    def measure(linear: nn.Linear, inputs: tuple[Tensor]) -> None:
        low, high = inputs[0].aminmax()
        ranges[linear] = torch.maximum(ranges.get(linear, low * 0), high.clamp(min=0) - low.clamp(max=0))

    modules = (*base.embeddings.modules(), *base.encoder.modules())
    hooks = [module.register_forward_pre_hook(measure) for module in modules if isinstance(module, nn.Linear)]
    for batch in calibration:
        network(**batch)
    for hook in hooks:
        hook.remove()
    for linear, span in ranges.items():
        # An input that is 0 in the whole calibration text can differ in another text: assume a range of 1.
        minimum = linear.bias.abs() * (127 * 255 / LARGEST_BIAS) / torch.where(span > 0, span, 1.0)
        largest, columns = linear.weight.abs().max(dim=1)
        rows = (largest < minimum).nonzero().flatten()
        linear.weight[rows, columns[rows]] = minimum[rows]
