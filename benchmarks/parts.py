"""Profiles the student in LiteRT, which has no operator profiler: times each part of the layers as its own graph.

python benchmarks/parts.py < job.json > parts.json
"""

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilebert_hf.deployment.benchmark.networks import OURS, build_network
from mobilebert_hf.deployment.benchmark.worker import text_inputs
from mobilebert_hf.deployment.formats import tflite
from mobilebert_hf.deployment.network import prepare_for_export
from mobilebert_hf.deployment.single_sequence import single_sequence_attention_forward
from mobilebert_hf.machine import time_interleaved
from mobilebert_hf.models.modeling_folded import FoldedLayer
from mobilebert_hf.tasks.heads import QUESTION_ANSWERING

# Dimensions of square matmuls. The fastest is the machine's peak.
PEAK_SIZES = (512, 1024, 2048)
WHOLE = "the network"


class Part(NamedTuple):
    """A part of every layer.

    Args:
        name: Its name in the results.
        step: (layer, states [1, seq, >= width]) -> states.
        width: Width of its input.
    """

    name: str
    step: Callable[[FoldedLayer, Tensor], Tensor]
    width: int


class _Chain(nn.Module):
    """The same part of all layers, one after another."""

    def __init__(self, layers: nn.ModuleList, part: Part) -> None:
        super().__init__()
        self.layers, self.part = layers, part

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, FoldedLayer)
            states = self.part.step(layer, _fit(states, self.part.width))
        return states


def _fit(states: Tensor, width: int) -> Tensor:
    """Pads or slices [..., any width] to [..., width]. The paper's sizes need no extra work."""
    missing = width - states.shape[-1]
    return nn.functional.pad(states, (0, missing)) if missing > 0 else states[..., :width]


def list_parts(config: Any) -> list[Part]:
    """Returns the parts of a layer of a folded student."""
    narrow, wide, inner = config.intra_bottleneck_size, config.hidden_size, config.intermediate_size
    return [
        Part(f"query, key, value and bottleneck input, {wide} to {4 * narrow}", _project, wide),
        Part("attention", _attend, 4 * narrow),
        Part(f"attention output, {narrow} to {narrow}", lambda layer, states: layer.attention(states, states), narrow),
        Part(f"feed-forward networks, {narrow} to {inner} to {narrow}", _feed_forward, narrow),
        Part(f"bottleneck output, {narrow} to {wide}", lambda layer, x: layer.output(x[..., :narrow], x), wide),
    ]


def _project(layer: FoldedLayer, states: Tensor) -> Tensor:
    return layer.projection(states if layer.narrow is None else layer.narrow(states))


def _attend(layer: FoldedLayer, states: Tensor) -> Tensor:
    query, key, value, _ = (part.unflatten(-1, (-1, layer.head_size)).transpose(1, 2) for part in states.chunk(4, -1))
    context = single_sequence_attention_forward(layer, query, key, value, None, 1.0)[0].flatten(2)
    return torch.cat([context] * 4, dim=-1)


def _feed_forward(layer: FoldedLayer, states: Tensor) -> Tensor:
    for network in layer.ffn:
        states = network(states)
    return states


def main() -> None:
    """Reads a job from standard input and writes the times of parts to standard output."""
    json.dump(measure(json.load(sys.stdin)), sys.stdout)


@torch.inference_mode()
def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Times the parts of the student's layers and the whole network, in turns.

    Args:
        job: `graphs` with the student's path; `model`; `precision`; `threads`; `shapes`, of which the first is used;
            `seconds` for each part.

    Returns:
        `parts`: rows with `part`, `ms` and `flops`, summed over layers; the last row is the whole network.
        `peak_gflops`: of the fastest matmul of `PEAK_SIZES`.
    """
    base: Any = prepare_for_export(build_network(OURS, job["model"])).base_model
    tokens = job["shapes"][0][1]
    modules: dict[str, tuple[nn.Module, Tensor]] = {
        part.name: (_Chain(base.encoder.layer, part), torch.randn(1, tokens, part.width))
        for part in list_parts(base.config)
    }
    for size in PEAK_SIZES:
        modules[str(size)] = nn.Linear(size, size), torch.randn(1, size, size)
    flops = {name: _count_flops(*pair) for name, pair in modules.items()}
    with TemporaryDirectory() as folder:
        calls = {}
        for index, (name, (module, states)) in enumerate(modules.items()):
            path = Path(folder) / f"{index}.tflite"
            _convert(module, states, path, job["precision"] == "int8")
            calls[name] = _load(path, states, job["threads"])
        whole = tflite.load(Path(job["graphs"][OURS]), QUESTION_ANSWERING, job["threads"])
        inputs = text_inputs(1, tokens)
        times = time_interleaved({**calls, WHOLE: lambda: whole(inputs)}, job["seconds"])
    peaks = [flops[str(size)] / min(times.pop(str(size))) / 1e6 for size in PEAK_SIZES]
    rows = [{"part": name, "ms": median(found), "flops": flops.get(name, 0)} for name, found in times.items()]
    return {"parts": rows, "peak_gflops": max(peaks)}


def _count_flops(module: nn.Module, states: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(states)
    return counter.get_total_flops()


def _convert(module: nn.Module, states: Tensor, path: Path, int8: bool) -> None:
    import litert_torch

    converter: Any = litert_torch
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        converter.signature(tflite.SIGNATURE, module.eval(), (states,)).convert().export(str(path))
    if int8:
        tflite.quantize_file(path, "int8", {})


def _load(path: Path, states: Tensor, threads: int) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=threads).get_signature_runner()
    [name] = runner.get_input_details()
    values = {name: states.numpy()}
    return lambda: runner(**values)


if __name__ == "__main__":
    main()
