"""Profiles the operators of a graph in runtimes that have a profiler."""

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mobilebert_hf.deployment.formats.openvino import compile_graph

RUNS = 30
# All dimensions of the matmul that measures the machine's peak.
PEAK_SIZE = 1024
# Names of ONNX Runtime's matmul operators contain one of these.
MATMULS = ("Conv", "MatMul", "Gemm", "Attention")

Inputs = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


class Event(NamedTuple):
    """A call of an operator.

    Args:
        operator: The runtime's name of the operator type.
        widths: Input and output width of a matmul, else empty.
        flops: FLOPs of a matmul (2 per multiply-add), else 0.
        milliseconds: Duration.
    """

    operator: str
    widths: Shape
    flops: int
    milliseconds: float


class Tracer(NamedTuple):
    """The profiler of a runtime.

    Args:
        trace: (graph, inputs, threads) -> the operator calls of `RUNS` runs after warm-up.
        write_peak: (folder, int8) -> path and inputs of a graph with one large matmul in int8 or float32.
    """

    trace: Callable[[Path, Inputs, int], list[Event]]
    write_peak: Callable[[Path, bool], tuple[Path, Inputs]]


def _trace_onnx(path: Path, inputs: Inputs, threads: int) -> list[Event]:
    import onnxruntime

    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {value.name: inputs[value.name] for value in session.get_inputs()}
        for _ in range(2 * RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return [_onnx_event(event) for event in kernels[len(kernels) // 2 :]]


def _onnx_event(event: dict[str, Any]) -> Event:
    """Computes widths and FLOPs from shapes. Attention includes the query, key and value matmuls and its own two."""
    operator, milliseconds = event["args"]["op_name"], event["dur"] / 1e3
    if not any(name in operator for name in MATMULS):
        return Event(operator, (), 0, milliseconds)
    shapes, [output, *_] = (
        [tuple(shape) for kinds in event["args"][f"{side}_type_shape"] for shape in kinds.values()]
        for side in ("input", "output")
    )
    if operator == "Conv":
        inputs, outputs = shapes[0][1], output[1]
        flops = 2 * prod(output) * shapes[1][1]
    else:  # the first matrix may be transposed
        inputs, outputs = prod(shapes[0][-2:]) // output[-2], output[-1]
        flops = 2 * prod(output) * inputs
    if "Attention" in operator:
        flops = 3 * flops + 4 * output[1] * prod(output)
    return Event(operator, (inputs, outputs), flops, milliseconds)


def _write_onnx_peak(folder: Path, int8: bool) -> tuple[Path, Inputs]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = PEAK_SIZE
    rng = np.random.default_rng(0)
    if int8:
        weight, values = rng.integers(-127, 127, (size, size), np.int8), rng.integers(0, 255, (size, size), np.uint8)
        nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
        kinds = TensorProto.UINT8, TensorProto.INT32
    else:
        weight, values = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(2))
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        kinds = TensorProto.FLOAT, TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, (size, size)) for name, kind in zip("xy", kinds, strict=True))
    graph = helper.make_graph(nodes, "peak", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "peak.onnx")
    return folder / "peak.onnx", {"x": values}


def _trace_openvino(path: Path, inputs: Inputs, threads: int) -> list[Event]:
    compiled = compile_graph(path, threads, PERF_COUNT=True)
    feed = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
    request = compiled.create_infer_request()
    for _ in range(RUNS):
        request.infer(feed)
    nodes = {node.get_friendly_name(): node for node in compiled.get_runtime_model().get_ordered_ops()}
    events = []
    for _ in range(RUNS):
        request.infer(feed)
        for call in request.get_profiling_info():
            if call.node_name in nodes:  # skip nodes that are not executed
                kind = _openvino_kind(call.node_type, nodes[call.node_name])
                events.append(Event(*kind, call.real_time.total_seconds() * 1e3))
    return events


def _openvino_kind(operator: str, node: Any) -> tuple[str, Shape, int]:
    """Returns operator, widths and FLOPs. Attention is a compiled subgraph that contains a softmax."""
    shapes = [tuple(port.get_partial_shape().to_shape()) for port in node.inputs()]
    if operator.startswith("FullyConnected"):
        output = tuple(node.output(0).get_partial_shape().to_shape())
        return "FullyConnected", (shapes[0][-1], output[-1]), 2 * prod(output) * shapes[0][-1]
    if operator == "Subgraph" and "Softmax" in node.get_rt_info()["originalLayersNames"].astype(str):
        tokens, heads, size = shapes[0][1:]
        return "Attention", (heads * size, heads * size), 4 * tokens * prod(shapes[0])
    return operator, (), 0


def _write_openvino_peak(folder: Path, int8: bool) -> tuple[Path, Inputs]:
    import nncf
    import openvino

    values = np.random.default_rng(0).standard_normal((PEAK_SIZE, PEAK_SIZE)).astype(np.float32)
    model = openvino.convert_model(nn.Linear(PEAK_SIZE, PEAK_SIZE), example_input=torch.from_numpy(values))
    model.inputs[0].set_names({"x"})
    if int8:
        model = nncf.quantize(model, nncf.Dataset([values]))
    openvino.save_model(model, folder / "peak.xml", compress_to_fp16=False)
    return folder / "peak.xml", {"x": values}


TRACERS = {
    "onnx": Tracer(_trace_onnx, _write_onnx_peak),
    "openvino": Tracer(_trace_openvino, _write_openvino_peak),
}
