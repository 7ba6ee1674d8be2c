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
# Operators that multiply matrices, in int8 if both inputs are quantized. Attention (`ScaledDotProductAttention`) is
# computed in float32.
PRODUCTS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul")
# Operators from an int8 constant to its float values, and those that only change a layout.
DEQUANTIZE = ("Convert", "Multiply", "Subtract")
LAYOUT = ("Reshape", "Squeeze", "Transpose", "Unsqueeze")
# Operators that may read an int8 constant.
OTHERS = ("Add", "Broadcast", "Concat", "Constant", "Gather", "ShapeOf", "Slice", "StridedSlice")
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
    """Yields name and int8 weight [out, in] of each matmul or convolution with unsigned activations.

    Files with int8 weights only yield nothing: OpenVINO chooses the activation type for the processor.

    Raises:
        ValueError: An operator multiplies int8 in a way that is not known here.
    """
    import openvino

    nodes = openvino.Core().read_model(path).get_ordered_ops()
    if any(node.get_type_name() == "FakeQuantize" for node in nodes):
        for node in nodes:
            if node.get_type_name() not in (*DEQUANTIZE, *LAYOUT, *OTHERS):
                yield from _weight_rows(path.name, node)


def _weight_rows(file: str, node: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and weight [out, in] of a product, if it has int8 weights."""
    kind, name, attributes = node.get_type_name(), node.get_friendly_name(), node.get_attributes()
    weights = [_int8_weight(value) for value in node.input_values()]
    found = next((weight for weight in weights if weight is not None), None)
    if found is None:
        sources = [_before_layout(value) for value in node.input_values()] if kind in PRODUCTS else []
        if any(_int8_weight(source) is not None for source in sources):
            raise _refusal(file, node, "changes the layout of its int8 weights")
        if sum(source.get_node().get_type_name() == "FakeQuantize" for source in sources) > 1:
            raise _refusal(file, node, "multiplies two tensors that are quantized at run time")
    elif kind == "MatMul":
        # The rows of the first matrix or the columns of the second are the outputs.
        first = weights[0] is not None
        is_transposed = attributes["transpose_a" if first else "transpose_b"]
        rows = found if first != is_transposed else np.swapaxes(found, -1, -2)
        yield name, rows.reshape(-1, rows.shape[-1])
    elif kind == "Convolution" and np.prod(found.shape[2:]) == 1:
        yield name, found.reshape(found.shape[:2])
    else:
        raise _refusal(file, node, f"has int8 weights {list(found.shape)}")


def _int8_weight(value: Any) -> np.ndarray | None:
    """The int8 constant that a value is dequantized from, or None."""
    node = value.get_node()
    if node.get_type_name() == "Constant":
        is_weight = value.get_element_type().to_string() == "i8" and len(value.get_shape()) > 1
        return node.data if is_weight else None
    if node.get_type_name() not in DEQUANTIZE:
        return None
    found = [weight for weight in map(_int8_weight, node.input_values()) if weight is not None]
    return max(found, key=lambda weight: weight.size, default=None)  # the others are zero points


def _before_layout(value: Any) -> Any:
    """The value before its layout was changed."""
    while value.get_node().get_type_name() in LAYOUT:
        value = value.get_node().input_value(0)
    return value


def _refusal(file: str, node: Any, reason: str) -> ValueError:
    return ValueError(
        f"{file}: the operator {node.get_type_name()} ({node.get_friendly_name()}) {reason}. It cannot be checked for "
        "saturation on x86 processors without VNNI. Nothing was written."
    )


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
