"""Eight bits for a folded network's products: ranges measured on real text, weights rounded row by row.

Activations are unsigned, with a scale and a zero point a tensor; weights are signed, symmetric, with a scale a row.
What needs more stays in float32: the state that runs through all layers, attention's scores and softmax, the heads.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.ao.quantization import HistogramObserver
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (defines torch.ops.quantized_decomposed)
from transformers import PreTrainedModel

from ..models.modeling_folded import FoldedLayer, FoldedMobileBertModel, QuantizationPoint
from .network import Batches

ops = torch.ops.quantized_decomposed
LOWEST, HIGHEST = 0, 255


class Quantized(nn.Module):
    """A point at which an activation is rounded to 8 bits: scale * (q - zero_point), q from 0 to 255."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point
        self.places = (scale, zero_point, LOWEST, HIGHEST, torch.uint8)

    def forward(self, states: Tensor) -> Tensor:
        """Any shape -> the same, rounded."""
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(states, *self.places), *self.places)


class QuantizedLinear(nn.Module):
    """`nn.Linear` with weights of 8 bits: row r is scale[r] * weight[r]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale, self.weight = _round_rows(linear.weight)
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
        self.scale, self.weight = _round_rows(embedding.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        return self.weight[ids].to(self.scale.dtype) * self.scale[ids][..., None]


def _round_rows(weight: Tensor) -> tuple[nn.Buffer, nn.Buffer]:
    """A scale a row, and the rows in int8, symmetric."""
    largest = weight.detach().abs().amax(dim=1)
    scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return nn.Buffer(scale), nn.Buffer((weight.detach() / scale[:, None]).round().to(torch.int8))


@torch.inference_mode()
def quantize_static(network: PreTrainedModel, calibration: Batches) -> None:
    """Quantizes embeddings and encoder of a folded network in place.

    Args:
        network: The network.
        calibration: Real text, to measure ranges on.
    """
    base = cast(FoldedMobileBertModel, network.base_model)
    projection = base.embeddings.embedding_transformation
    base.embeddings.set_submodule(
        "embedding_transformation", nn.Sequential(QuantizationPoint(), projection, QuantizationPoint())
    )
    for layer in base.encoder.layer:
        # The state between layers is rounded where products read it, and nowhere else.
        cast(FoldedLayer, layer).output.set_submodule("sum", nn.Identity())
    _replace(base, QuantizationPoint, lambda point: HistogramObserver(dtype=torch.quint8))
    for batch in calibration:
        network(**batch)
    _replace(base, HistogramObserver, _as_point)
    for part in (base.embeddings, base.encoder):  # a pooler stays as it is
        _replace(part, nn.Linear, lambda linear: QuantizedLinear(cast(nn.Linear, linear)))
    _replace(base.embeddings, nn.Embedding, lambda table: QuantizedEmbedding(cast(nn.Embedding, table)))


def _as_point(observer: nn.Module) -> Quantized:
    scale, zero_point = cast(HistogramObserver, observer).calculate_qparams()
    return Quantized(scale.item(), int(zero_point.item()))


def _replace(root: nn.Module, kind: type, make: Callable[[nn.Module], nn.Module]) -> None:
    for name in [name for name, module in root.named_modules() if isinstance(module, kind)]:
        root.set_submodule(name, make(root.get_submodule(name)))
