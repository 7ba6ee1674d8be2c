"""What int8 costs on processors with VNNI and without it, and what the range of the weights has to do with it.

    python benchmarks/processors.py runs/sst2 data/glue data/text runs/processors

`runs/sst2` is a student fine-tuned on SST-2, `data/glue` is GLUE in its layout, and `data/text` is what ranges are
measured on. Every format is exported in both int8 kinds. ONNX Runtime's and OpenVINO's graphs are also written with
other ranges for the weights: each row's full range, half of it for all rows, and unsigned weights. Each graph runs
here, and on emulated processors (`qemu-x86_64 -cpu Haswell`, from Debian's qemu-user), whose times say nothing.
Results go to benchmarks/processors/results.json.
"""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from rich.console import Console
from transformers import AutoTokenizer

from mobilebert_hf.deployment import FORMATS
from mobilebert_hf.deployment.calibration import calibration_batches
from mobilebert_hf.deployment.check import run_pytorch
from mobilebert_hf.deployment.formats.onnx_int8 import PRODUCTS
from mobilebert_hf.deployment.network import prepare_for_export
from mobilebert_hf.deployment.saturation import largest_pair
from mobilebert_hf.deployment.scoring import predict
from mobilebert_hf.deployment.student import load_student, sample_inputs
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.machine import describe_machine, time_interleaved
from mobilebert_hf.models.fake_quantization import matmul_scales, row_scales
from mobilebert_hf.tables import terminal_table
from mobilebert_hf.tasks.glue_data import load_glue, tokenize_glue
from mobilebert_hf.tasks.glue_tasks import find_task
from mobilebert_hf.tasks.heads import find_task as find_head

RESULTS = Path(__file__).parent / "processors" / "results.json"
# Processors as qemu names them, and what they are without.
EMULATED = {"Haswell": "no VNNI"}
PAIRS = "pairs"
RANGES = {PAIRS: matmul_scales, "full": row_scales, "half": lambda weight: 2 * row_scales(weight)}
UNSIGNED = "unsigned"
SHOWN = {
    PAIRS: "pairs fit (exported)",
    "full": "full range",
    "half": "half the range",
    UNSIGNED: "unsigned weights",
}
LENGTH, THREADS, SECONDS = 128, 2, 3.0
HEAD = "MobileBertForSequenceClassification"


def main(
    model: Annotated[Path, typer.Argument(help="A student fine-tuned on SST-2.")],
    glue: Annotated[str, typer.Argument(help="GLUE's folder.")],
    text: Annotated[str, typer.Argument(help="Text to measure ranges on.")],
    output: Annotated[Path, typer.Argument(help="Folder for the graphs.")],
    examples: Annotated[int, typer.Option(help="Examples that every graph is scored on.")] = 872,
) -> None:
    """Writes, runs and times all graphs."""
    source, head = load_student(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    batches = calibration_batches([text], tokenizer, LENGTH, source.config.type_vocab_size)
    graphs = {}
    for format, quantize, weights in _variants():
        path = output / weights / FORMATS[format].FILES[quantize]
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(format, quantize, weights, source, head, path, batches if quantize == "int8-static" else [])
        graphs[f"{format} {quantize} {weights}"] = path
    rows = tokenize_glue(load_glue(find_task("sst2"), glue), tokenizer, LENGTH)["validation"].select(range(examples))
    asked: list[dict[str, np.ndarray]] = []
    pytorch = run_pytorch(source)

    def remember(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        asked.append(dict(inputs))
        return pytorch(inputs)

    expected = np.stack(predict(remember, rows, tokenizer, head.outputs)["logits"])
    order = np.argsort([len(ids) for ids in rows["input_ids"]], kind="stable")
    labels = np.array(rows["label"])[order]
    expected = expected[order]
    np.savez(output / "inputs.npz", **{f"{i}.{key}": v for i, batch in enumerate(asked) for key, v in batch.items()})
    processors = {"here": [], **{name: [_qemu(), "-cpu", name] for name in EMULATED}}
    outputs = {name: _run_elsewhere(launcher, output, name, graphs) for name, launcher in processors.items()}
    inputs = {key: value.numpy() for key, value in sample_inputs(source, 1, LENGTH).items()}
    loaded = {name: FORMATS[name.split()[0]].load(path, head, THREADS) for name, path in graphs.items()}
    times = time_interleaved({name: lambda run=run: run(inputs) for name, run in loaded.items()}, SECONDS)
    results = {
        "machine": describe_machine(),
        "emulated": EMULATED,
        "examples": examples,
        "pytorch": _accuracy(expected, labels),
        "graphs": [
            {
                **dict(zip(("format", "quantize", "weights"), name.split(), strict=True)),
                "largest_pair": max((largest_pair(w) for _, w in _matmuls(name, path)), default=None),
                "milliseconds": statistics.median(times[name]),
                "processors": {
                    processor: {
                        "relative_error": float(np.abs(found[name] - expected).max() / np.abs(expected).max()),
                        "accuracy": _accuracy(found[name], labels),
                    }
                    for processor, found in outputs.items()
                },
            }
            for name, path in graphs.items()
        ],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    atomic_write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    Console().print(terminal_table(cells(results), "int8 on processors"))


def _variants() -> Iterator[tuple[str, str, str]]:
    for format, backend in FORMATS.items():
        for quantize in backend.FILES:
            if quantize is None:
                continue
            yield format, quantize, PAIRS
            if (format, quantize) in (("onnx", "int8"), ("onnx", "int8-static"), ("openvino", "int8-static")):
                yield from ((format, quantize, weights) for weights in ("full", "half"))
            if format == "onnx":
                yield format, quantize, UNSIGNED


def _write(format: str, quantize: str, weights: str, source: Any, head: Any, path: Path, batches: Any) -> None:
    scales = RANGES["full" if weights == UNSIGNED else weights]
    modules = ("deployment.quantization", "deployment.formats.onnx", "deployment.formats.openvino")
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch(f"mobilebert_hf.{module}.matmul_scales", scales))
        FORMATS[format].write(prepare_for_export(source), head, path, quantize, batches)
    if weights == UNSIGNED:
        _make_unsigned(path)


def _make_unsigned(path: Path) -> None:
    """Adds 128 to the int8 weights of an ONNX file, and to their zero points."""
    import onnx as library
    from onnx import numpy_helper

    program = library.load(path)
    constants = {tensor.name: tensor for tensor in program.graph.initializer}
    names = set()
    for node in program.graph.node:
        if node.op_type in PRODUCTS:
            names |= {name for name in node.input if name in constants and constants[name].data_type == 3}
    for name in names:
        values = (numpy_helper.to_array(constants[name]).astype(np.int16) + 128).astype(np.uint8)
        constants[name].CopyFrom(numpy_helper.from_array(values, name))
    library.save(program, path)


def _matmuls(name: str, path: Path) -> Any:
    return FORMATS[name.split()[0]].unsigned_matmuls(path)


def _qemu() -> str:
    if (found := shutil.which("qemu-x86_64")) is None:
        raise typer.BadParameter("qemu-x86_64 is not installed: on Debian and Ubuntu it is in qemu-user.")
    return found


def _run_elsewhere(launcher: list[str], folder: Path, name: str, graphs: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """The logits [examples, 2] of each graph on a processor, in a process of its own."""
    command = [*launcher, sys.executable, __file__, "--worker", str(folder), name, json.dumps(graphs, default=str)]
    subprocess.run(command, check=True)
    return dict(np.load(folder / f"{name}.npz"))


def work(folder: Path, name: str, graphs: Mapping[str, str]) -> None:
    """Runs graphs on the batches of a folder, and leaves their logits there."""
    arrays = np.load(folder / "inputs.npz")
    batches: dict[str, dict[str, np.ndarray]] = {}
    for key in arrays:
        batches.setdefault(key.split(".")[0], {})[key.split(".")[1]] = arrays[key]
    outputs = {}
    for graph, path in graphs.items():
        run = FORMATS[graph.split()[0]].load(Path(path), find_head(HEAD), THREADS)
        outputs[graph] = np.concatenate([run(batch)["logits"] for batch in batches.values()])
        print(f"{name}: {graph}", file=sys.stderr, flush=True)
    np.savez(folder / f"{name}.npz", **outputs)


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(100 * (logits.argmax(-1) == labels).mean())


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The results as rows of text, the first one the heading."""
    machine = results["machine"]
    vnni = any("vnni" in name for name in machine["instructions"])
    names = [f"{machine['cpu']}, {'VNNI' if vnni else 'no VNNI'}"]
    names += [f"{name}, {kind}, emulated" for name, kind in results["emulated"].items()]
    scored = f"SST-2, {results['examples']} examples"
    measures = [f"{measure}: {name}" for measure in ("error", scored) for name in names]
    rows = [["graph", "weights", "latency", *measures]]
    rows.append(["PyTorch, float32", "", "", *["", ""], *[f"{results['pytorch']:.2f}"] * 2])
    for graph in results["graphs"]:
        found = graph["processors"].values()
        rows.append(
            [
                f"{graph['format']}, {graph['quantize']}",
                SHOWN[graph["weights"]] if graph["largest_pair"] or graph["weights"] == UNSIGNED else "",
                f"{graph['milliseconds']:.1f} ms",
                *(f"{one['relative_error']:.3f}" for one in found),
                *(f"{one['accuracy'] - results['pytorch']:+.2f}" for one in found),
            ]
        )
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    else:
        typer.run(main)
