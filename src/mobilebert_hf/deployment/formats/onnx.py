"""ONNX, for ONNX Runtime, transformers.js and Optimum. The file names are those that transformers.js expects."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...models.fake_quantization import matmul_scales
from ...models.modeling_folded import FoldedMobileBertPreTrainedModel
from ...tasks.heads import Task
from ..check import Run
from ..network import Batches
from ..ort_encoder import lower
from ..ort_int8 import lower_int8
from ..quantization import quantize_static
from ..student import dynamic_shapes, example_inputs
from .onnx_int8 import unsigned_matmuls  # noqa: F401 (part of the format)

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INSTALL = 'pip install "mobilebert-hf[export]"'
FOLDS = ()
FILES = {None: "onnx/model.onnx", "int8": "onnx/model_quantized.onnx", "int8-static": "onnx/model_int8.onnx"}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Writes the network to one file that includes the weights.

    A folded network is written in the form that is fastest in ONNX Runtime: in float32 with standard operators
    (`ort_encoder.py`), statically quantized with ONNX Runtime's operators (`ort_int8.py`). `"int8"` is ONNX Runtime's
    dynamic quantization.
    """
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    quantizer = None
    if quantize == "int8":
        quantizer = _dynamic_quantizer()
    elif quantize == "int8-static":
        quantize_static(network, calibration)
        lower_int8(network)
    elif isinstance(network, FoldedMobileBertPreTrainedModel):
        lower(network)
    config = OnnxConfig(dynamic=True, dynamic_shapes=dynamic_shapes(network), quantizer=quantizer)
    with redirect_stdout(io.StringIO()):  # torch.onnx prints its progress
        program: Any = OnnxExporter().export(network, example_inputs(network), config=config).program
    # The metadata of nodes contains local file paths.
    ClearMetadataAndDocStringPass()(program)
    onnx_ir.save(program, str(path))


def _dynamic_quantizer() -> Any:
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    class Quantizer(OnnxRuntimeQuantizer):
        """ONNX Runtime's quantizer with the weight scales of `matmul_scales`, which do not saturate."""

        def quantize(self, model: Any, *args: Any) -> Any:
            self.config.extra_options = {"TensorQuantOverrides": _weight_scales(model)}
            return super().quantize(model, *args)

    # CPUs have instructions for int8 weights with uint8 activations.
    return Quantizer(OnnxRuntimeDynamicConfig(weight_type=QuantType.QInt8, per_channel=True))


def _weight_scales(model: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns `TensorQuantOverrides` for the matmul weights of a float32 graph, by name."""
    scales = {}
    for node in model.graph:
        weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weight is not None and weight.const_value is not None and weight.is_initializer():
            rows = torch.from_numpy(weight.const_value.numpy().copy())
            transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
            found = matmul_scales(rows if transposed else rows.t())
            # The quantizer first converts Gemm to MatMul, whose weight is [in, out].
            scales[weight.name] = [{"axis": 1, "scale": scale, "zero_point": 0} for scale in found.numpy()]
    return scales


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Loads a file with ONNX Runtime's CPU execution provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(None, {name: inputs[name] for name in names}), strict=True))

    return run
