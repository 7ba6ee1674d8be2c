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
        largest = linear.weight.detach().abs().amax(dim=1)
        self.scale = nn.Buffer((largest / 127).clamp(min=torch.finfo(torch.float32).tiny))
        self.zero_point = nn.Buffer(torch.zeros_like(largest, dtype=torch.int64))
        self.weight = nn.Buffer((linear.weight.detach() / self.scale[:, None]).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = ops.dequantize_per_channel(
            self.weight, self.scale, self.zero_point, axis=0, quant_min=-128, quant_max=127, dtype=torch.int8
        )
        return nn.functional.linear(states, weight, self.bias)


@torch.inference_mode()
def quantize_static(network: PreTrainedModel, calibration: Batches) -> None:
    """Quantizes the encoder of a folded network in place.

    Args:
        network: The network.
        calibration: Real text, to measure ranges on.
    """
    encoder = cast(FoldedMobileBertModel, network.base_model).encoder
    for layer in encoder.layer:
        # The state between layers is rounded where products read it, and nowhere else.
        cast(FoldedLayer, layer).output.set_submodule("sum", nn.Identity())
    _replace(encoder, QuantizationPoint, lambda point: HistogramObserver(dtype=torch.quint8))
    for batch in calibration:
        network(**batch)
    _replace(encoder, HistogramObserver, _as_point)
    _replace(encoder, nn.Linear, lambda linear: QuantizedLinear(cast(nn.Linear, linear)))


def _as_point(observer: nn.Module) -> Quantized:
    scale, zero_point = cast(HistogramObserver, observer).calculate_qparams()
    return Quantized(scale.item(), int(zero_point.item()))


def _replace(root: nn.Module, kind: type, make: Callable[[nn.Module], nn.Module]) -> None:
    for name in [name for name, module in root.named_modules() if isinstance(module, kind)]:
        root.set_submodule(name, make(root.get_submodule(name)))
