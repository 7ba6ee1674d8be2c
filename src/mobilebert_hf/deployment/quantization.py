"""Eight bits for a folded network's products: ranges measured on real text, weights rounded row by row.

Activations are unsigned, with a scale and a zero point a tensor; weights are signed, symmetric, with a scale a row.
What needs more stays in float32: the state that runs through all layers, attention's scores and softmax, the heads.
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
# In units of the product's scales; leaves as much of 32 bits to the products that it is added to.
LARGEST_BIAS = 2**30


class Quantized(nn.Module):
    """A point at which an activation is rounded to 8 bits: scale * (q - zero_point), q from 0 to 255."""

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.scale, self.zero_point = scale.item(), int(zero_point.item())
        self.places = (self.scale, self.zero_point, LOWEST, HIGHEST, torch.uint8)

    def forward(self, states: Tensor) -> Tensor:
        """Any shape -> the same, rounded."""
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(states, *self.places), *self.places)


class QuantizedLinear(nn.Module):
    """`nn.Linear` with weights of 8 bits: row r is scale[r] * weight[r]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale, self.weight = _round_rows(linear.weight, matmul_scales(linear.weight))
        self.zero_point = nn.Buffer(torch.zeros_like(self.scale, dtype=torch.int64))
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = ops.dequantize_per_channel(
            self.weight, self.scale, self.zero_point, axis=0, quant_min=-128, quant_max=127, dtype=torch.int8
        )
        return nn.functional.linear(states, weight, self.bias)


class QuantizedEmbedding(nn.Module):
    """`nn.Embedding` with a table of 8 bits: row r is scale[r] * weight[r]."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.scale, self.weight = _round_rows(embedding.weight, row_scales(embedding.weight))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        return self.weight[ids].to(self.scale.dtype) * self.scale[ids][..., None]


def _round_rows(weight: Tensor, scales: Tensor) -> tuple[nn.Buffer, nn.Buffer]:
    """The scales of the rows, and the rows in int8, symmetric."""
    return nn.Buffer(scales), nn.Buffer((weight.detach() / scales[:, None]).round().to(torch.int8))


@torch.inference_mode()
def quantize_static(network: PreTrainedModel, calibration: Batches) -> None:
    """Quantizes embeddings and encoder of a folded network in place.

    Args:
        network: The network.
        calibration: Real text, to measure ranges on; a quantization-aware network has learned its own.
    """
    base = cast(FoldedMobileBertModel, network.base_model)
    replace(base, FakeQuantizedActivation, lambda point: Quantized(*point.grid()))
    replace(base, QuantizationPoint, lambda point: MinMaxObserver(dtype=torch.quint8))
    for batch in calibration:
        network(**batch)
    replace(base, MinMaxObserver, lambda observer: Quantized(*observer.calculate_qparams()))
    for part in (base.embeddings, base.encoder):  # a pooler stays as it is
        replace(part, nn.Linear, QuantizedLinear)
    replace(base.embeddings, nn.Embedding, QuantizedEmbedding)


@torch.inference_mode()
def hold_biases(network: PreTrainedModel, calibration: Batches) -> None:
    """Gives rows of a folded network's products a weight by which their biases fit into 32 bits, in place.

    Quantizers round a bias in units of its row's scale times the input's. Where weights are 0 beside it, as those that
    a norm's weight of 0 was folded into, it would be cut off. The new weight is next to nothing beside the bias: it
    adds 127 * 255 / `LARGEST_BIAS` of it at most.

    Args:
        network: The network.
        calibration: Real text, to measure the ranges of what the products read on.
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
        # What is 0 in all texts may not be in another one: its range is 1.
        least = linear.bias.abs() * (127 * 255 / LARGEST_BIAS) / torch.where(span > 0, span, 1.0)
        sizes, places = linear.weight.abs().max(dim=1)
        rows = (sizes < least).nonzero().flatten()
        linear.weight[rows, places[rows]] = least[rows]
