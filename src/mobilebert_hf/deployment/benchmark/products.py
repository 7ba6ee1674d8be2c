"""Where a graph's time goes in ONNX Runtime: each kind of product, beside the fastest product that the machine does.

python -m mobilebert_hf.deployment.benchmark.products < job.json > products.json
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ..tasks import INPUTS

RUNS = 30
# What the names of products contain.
PRODUCTS = ("Conv", "MatMul", "Gemm", "Attention")
# Rows, columns and depth of the product that stands for the machine's peak.
PEAK_SIZE = 1024

Shape = tuple[int, ...]


def main() -> None:
    """Reads a job from standard input and writes its products to standard output."""
    job = json.load(sys.stdin)
    tokens = job["shapes"][0][1]
    kinds = {name: profile(Path(path), tokens, job["threads"]) for name, path in job["graphs"].items()}
    json.dump({"products": kinds, "peak_gflops": measure_peak(job["int8"], job["threads"])}, sys.stdout)


def profile(path: Path, tokens: int, threads: int) -> list[dict[str, Any]]:
    """Runs a graph on a text, and sums up its operators.

    Args:
        path: The graph.
        tokens: Of the text.
        threads: For ONNX Runtime.

    Returns:
        A row for each operator, and for each pair of widths that it is from and to where it is a product, the longest
        first: `operator`, `widths`, `count` in a run, `ms` of them all in a run, median of the runs, and `flops` of
        them all.
    """
    ids = np.random.default_rng(0).integers(1, 100, (1, tokens))
    inputs = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
    times: dict[tuple, list[float]] = defaultdict(list)
    flops: dict[tuple, int] = {}
    for operator, shapes, output, milliseconds in _events(path, inputs, threads):
        kind: tuple = (operator,)
        if any(name in operator for name in PRODUCTS):
            kind = (operator, *_widths(operator, shapes, output))
            flops[kind] = _flops(operator, shapes, output, tokens)
        times[kind].append(milliseconds)
    rows = []
    for kind, found in times.items():
        count = len(found) // RUNS
        by_run = np.array(found).reshape(RUNS, count).sum(1)
        row = {"operator": kind[0], "widths": list(kind[1:]), "count": count, "ms": median(by_run.tolist())}
        rows.append({**row, "flops": count * flops.get(kind, 0)})
    return sorted(rows, key=lambda row: -row["ms"])


def _widths(operator: str, shapes: list[Shape], output: Shape) -> Shape:
    """How wide what it reads and what it writes is; ONNX Runtime does not tell of every weight."""
    channels = 1 if operator == "Conv" else -1
    return shapes[0][channels], output[channels]


def _flops(operator: str, shapes: list[Shape], output: Shape, tokens: int) -> int:
    """Two for each multiplication; attention takes query, key and value along, and has two products of its own."""
    read, written = _widths(operator, shapes, output)
    if "Attention" in operator:
        return 2 * tokens * read * 3 * written + 4 * tokens**2 * written
    by_channel = operator == "Conv" and shapes[1][1] == 1
    return 2 * prod(output) * (1 if by_channel else read)


def _events(
    path: Path, inputs: Mapping[str, np.ndarray], threads: int
) -> Iterator[tuple[str, list[Shape], Shape, float]]:
    """Operator, shapes of inputs and output, and milliseconds, of every call in `RUNS` runs, after some to warm up."""
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
    for event in kernels[len(kernels) // 2 :]:
        read, written = (
            [tuple(shape) for kinds in event["args"][f"{side}_type_shape"] for shape in kinds.values()]
            for side in ("input", "output")
        )
        yield event["args"]["op_name"], read, written[0], event["dur"] / 1e3


def measure_peak(int8: bool, threads: int) -> float:
    """The GFLOPS of one large product of float32, or of unsigned with signed 8-bit integers."""
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
    places = [helper.make_tensor_value_info(name, kind, (size, size)) for name, kind in zip("xy", kinds, strict=True)]
    graph = helper.make_graph(nodes, "peak", places[:1], places[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "peak.onnx")
        times = [duration for *_, duration in _events(Path(folder) / "peak.onnx", {"x": values}, threads)]
    return 2 * size**3 / (1e6 * min(times))


if __name__ == "__main__":
    main()
