"""OpenVINO IR, for OpenVINO and Optimum Intel."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...models.fake_quantization import matmul_scales
from ...tasks.heads import Task
from ..check import Run
from ..network import Batches
from ..student import dynamic_shapes, example_inputs

PACKAGES = ("nncf", "openvino")
INSTALL = 'pip install "mobilebert-hf[openvino]"'
FOLDS = (None,)
# Equal constants of up to this many bytes are shared.
SHARED_BYTES = 64
FILES = {
    None: "openvino/openvino_model.xml",
    "int8": "openvino/openvino_model_int8.xml",
    "int8-static": "openvino/openvino_model_int8_static.xml",
}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Traces the network and writes the graph, with its weights in a `.bin` file of the same name.

    NNCF quantizes: `"int8"` the weights only, `"int8-static"` weights and activations with calibrated ranges.
    """
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    network.set_attn_implementation("sdpa")  # OpenVINO has an operator for it
    config = OpenVINOConfig(
        dynamic=True, dynamic_shapes=dynamic_shapes(network), quantizer=_quantizer(quantize, calibration)
    )
    program = OpenVINOExporter().export(network, example_inputs(network), config=config).program
    _share_constants(program)
    OpenVINOExporter.save_program(program, path)
    # Remove the indentation, which is a large part of the file.
    path.write_text(re.sub(r">\s+<", "><", path.read_text(encoding="utf-8")), encoding="utf-8")


def _share_constants(program: Any) -> None:
    """Merges equal small constants. Tracing and NNCF create one for every use."""
    constants: dict[tuple, Any] = {}
    for node in program.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.data.nbytes <= SHARED_BYTES:
            value = node.output(0)
            key = str(value.get_element_type()), tuple(value.get_shape()), node.data.tobytes()
            value.replace(constants.setdefault(key, value))


def _quantizer(quantize: str | None, calibration: Batches) -> Any:
    if quantize is None:
        return None
    import nncf
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig, NNCFWeightCompressionConfig

    if quantize == "int8":
        return NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig(mode=nncf.CompressWeightsMode.INT8_SYM))
    # Folding already equalizes the channels. SmoothQuant would add multiplications and lose accuracy.
    smoothing = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    config = NNCFQuantizationConfig(
        subset_size=len(calibration),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
    )

    class Quantizer(NNCFOpenVINOQuantizer):
        """NNCF's quantizer with the weight scales of `matmul_scales`, which do not saturate."""

        def quantize(self, model: Any, *args: Any) -> Any:
            exact = {name: weight.get_node().data.copy() for name, weight in _matmul_weights(model, "f32")}
            quantized = super().quantize(model, *args)
            for name, weight in _matmul_weights(quantized, "i8"):
                _requantize(weight, torch.from_numpy(exact[name]))
            return quantized

    return Quantizer(config, [dict(batch) for batch in calibration])


def _matmul_weights(program: Any, kind: str) -> Iterator[tuple[str, Any]]:
    """Yields name and weight of each matmul with a constant weight [out, in] of element type `kind`."""
    for node in program.get_ordered_ops():
        if node.get_type_name() == "MatMul" and node.get_attributes()["transpose_b"]:
            weight = node.input_value(1)
            while weight.get_node().get_type_name() in ("Multiply", "Convert"):
                weight = weight.get_node().input_value(0)
            if weight.get_node().get_type_name() == "Constant" and weight.get_element_type().to_string() == kind:
                yield node.get_friendly_name(), weight


def _requantize(constant: Any, weight: torch.Tensor) -> None:
    """Replaces an int8 constant and its scales by the quantization of a float32 weight with `matmul_scales`."""
    from openvino import opset13 as operators

    scales = matmul_scales(weight)
    rows = (weight / scales[:, None]).round().to(torch.int8).numpy()
    [convert] = constant.get_target_inputs()
    [multiply] = convert.get_node().output(0).get_target_inputs()
    scale = multiply.get_node().input_value(1)
    dtype = np.dtype(scale.get_element_type().to_dtype())
    constant.replace(operators.constant(rows).output(0))
    new_scale = operators.constant(scales[:, None].numpy().astype(dtype))
    multiply.get_node().input(1).replace_source_output(new_scale.output(0))


def unsigned_matmuls(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and int8 weight [out, in] of each matmul with unsigned activations.

    Files with int8 weights only yield nothing: OpenVINO chooses the activation type for the processor.
    """
    import openvino

    program = openvino.Core().read_model(path)
    if any(node.get_type_name() == "FakeQuantize" for node in program.get_ordered_ops()):
        yield from ((name, weight.get_node().data) for name, weight in _matmul_weights(program, "i8"))


def load(path: Path, task: Task, threads: int = 1, **options: Any) -> Run:
    """Loads a file with OpenVINO's CPU plugin (see `compile_graph`)."""
    compiled = compile_graph(path, threads, **options)
    names = [port.get_any_name() for port in compiled.inputs]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = compiled({name: inputs[name] for name in names})
        return {output.get_any_name(): value.copy() for output, value in outputs.items()}

    return run


def compile_graph(path: Path, threads: int, **options: Any) -> Any:
    """Compiles a file for OpenVINO's CPU plugin, in float32 where it is not int8; `options` are plugin properties."""
    import openvino

    defaults = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(path), "CPU", defaults | options)


def has_bfloat16() -> bool:
    """Returns whether the processor has bfloat16 instructions."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
