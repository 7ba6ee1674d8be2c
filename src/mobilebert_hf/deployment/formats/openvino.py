"""OpenVINO's intermediate representation, run by OpenVINO and Optimum Intel."""

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
# Bytes of a constant that is not worth one of its own.
SMALL = 64
FILES = {
    None: "openvino/openvino_model.xml",
    "int8": "openvino/openvino_model_int8.xml",
    "int8-static": "openvino/openvino_model_int8_static.xml",
}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Traces the network and writes the graph, and its weights into a `.bin` file beside it.

    NNCF quantizes: the weights alone, or weights and activations by ranges that it measures.
    """
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    network.set_attn_implementation("sdpa")  # which OpenVINO has an operator for
    config = OpenVINOConfig(
        dynamic=True, dynamic_shapes=dynamic_shapes(network), quantizer=_quantizer(quantize, calibration)
    )
    program = OpenVINOExporter().export(network, example_inputs(network), config=config).program
    _share_constants(program)
    OpenVINOExporter.save_program(program, path)
    # Every value has a line of its own there, and tabs before it.
    path.write_text(re.sub(r">\s+<", "><", path.read_text(encoding="utf-8")), encoding="utf-8")


def _share_constants(program: Any) -> None:
    """Leaves one of each small constant: the trace and NNCF have one for every use."""
    constants: dict[tuple, Any] = {}
    for node in program.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.data.nbytes <= SMALL:
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
    # Channels were evened when norms were folded; smoothing them again takes products, and loses more.
    smoothing = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    config = NNCFQuantizationConfig(
        subset_size=len(calibration),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
    )

    class Quantizer(NNCFOpenVINOQuantizer):
        """NNCF's, with scales for the weights of matmuls that no processor saturates with."""

        def quantize(self, model: Any, *args: Any) -> Any:
            exact = {name: weight.get_node().data.copy() for name, weight in _matmul_weights(model, "f32")}
            quantized = super().quantize(model, *args)
            for name, weight in _matmul_weights(quantized, "i8"):
                _round_rows(weight, torch.from_numpy(exact[name]))
            return quantized

    return Quantizer(config, [dict(batch) for batch in calibration])


def _matmul_weights(program: Any, kind: str) -> Iterator[tuple[str, Any]]:
    """The name of each matmul with a constant weight [out, in] of an element type, and the constant's output."""
    for node in program.get_ordered_ops():
        if node.get_type_name() == "MatMul" and node.get_attributes()["transpose_b"]:
            weight = node.input_value(1)
            while weight.get_node().get_type_name() in ("Multiply", "Convert"):
                weight = weight.get_node().input_value(0)
            if weight.get_node().get_type_name() == "Constant" and weight.get_element_type().to_string() == kind:
                yield node.get_friendly_name(), weight


def _round_rows(rounded: Any, weight: torch.Tensor) -> None:
    """Replaces an int8 constant, and the scales after it, by those of `matmul_scales`."""
    from openvino import opset13 as operators

    scales = matmul_scales(weight)
    rows = (weight / scales[:, None]).round().to(torch.int8).numpy()
    [convert] = rounded.get_target_inputs()
    [multiply] = convert.get_node().output(0).get_target_inputs()
    scale = multiply.get_node().input_value(1)
    shared = np.dtype(scale.get_element_type().to_dtype())
    rounded.replace(operators.constant(rows).output(0))
    multiply.get_node().input(1).replace_source_output(
        operators.constant(scales[:, None].numpy().astype(shared)).output(0)
    )


def unsigned_matmuls(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The name and the int8 weight [out, in] of each matmul of a file with unsigned activations.

    Activations of matmuls whose weights alone are of int8 are float32, or rounded as the processor allows.
    """
    import openvino

    program = openvino.Core().read_model(path)
    if any(node.get_type_name() == "FakeQuantize" for node in program.get_ordered_ops()):
        yield from ((name, weight.get_node().data) for name, weight in _matmul_weights(program, "i8"))


def load(path: Path, task: Task, threads: int = 1, **options: Any) -> Run:
    """Runs a file on OpenVINO's CPU plugin, what is not of 8 bits in float32 if its `options` say nothing else."""
    compiled = compile_graph(path, threads, **options)
    takes = [port.get_any_name() for port in compiled.inputs]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = compiled({name: inputs[name] for name in takes})
        return {output.get_any_name(): value.copy() for output, value in outputs.items()}

    return run


def compile_graph(path: Path, threads: int, **options: Any) -> Any:
    """A file as OpenVINO's CPU plugin runs it, with more of the plugin's options."""
    import openvino

    defaults = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(str(path), "CPU", defaults | options)


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
