"""Times the graphs of one runtime. The graphs take turns, so that other load on the machine affects all alike.

    python -m mobilebert_hf.deployment.benchmark.worker < job.json > times.json

Each runtime has its own process, because the thread pools of runtimes spin.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...machine import peak_memory, time_interleaved
from ...models.modeling_folded import FoldedMobileBertPreTrainedModel
from ...models.packing import PACKED
from ...tasks.heads import QUESTION_ANSWERING
from ..check import Run, run_pytorch
from ..formats import FORMATS, openvino
from ..student import INPUTS
from .mixed import mixed_passes
from .networks import OURS, build_network, prepare_pytorch


def main() -> None:
    """Reads a job from standard input and writes the times to standard output."""
    job = json.load(sys.stdin)
    json.dump(measure(job), sys.stdout)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Times every graph of a job.

    Args:
        job: `format`; `precision`; `threads`; `graphs`, paths by name; `shapes`, [batch size, sequence length];
            `seconds` for each graph and shape; `lengths` of the texts of mixed lengths, can be empty; `model` for
            PyTorch.

    Returns:
        `times`: milliseconds of each call, by shape (`"1x128"`) and name; `mixed`: milliseconds of each pass over all
        texts, by name and batching; `peak_memory`: bytes that this process used beyond Python and its libraries.
    """
    before = peak_memory()
    runs = _load(job)
    times: dict[str, Any] = {}
    for rows, tokens in job["shapes"]:
        inputs = text_inputs(rows, tokens)
        calls = {name: _bind(run, inputs) for name, run in runs.items()}
        times[f"{rows}x{tokens}"] = time_interleaved(calls, job["seconds"])
    mixed = {}
    if job["lengths"]:
        packed = _load_packed(job) if job["format"] == "pytorch" else None
        mixed = time_interleaved(mixed_passes(runs, packed, job["lengths"]), job["seconds"])
    return {"times": times, "mixed": mixed, "peak_memory": peak_memory() - before}


def _load(job: dict[str, Any]) -> dict[str, Run]:
    if job["format"] != "pytorch":
        load: Any = FORMATS[job["format"]].load
        if job["precision"] == "bfloat16":
            load = partial(openvino.load, INFERENCE_PRECISION_HINT="bf16")
        return {name: load(Path(path), QUESTION_ANSWERING, job["threads"]) for name, path in job["graphs"].items()}
    torch.set_num_threads(job["threads"])
    return {name: run_pytorch(prepare_pytorch(name, build_network(name, job["model"]))) for name in job["graphs"]}


def _load_packed(job: dict[str, Any]) -> Run | None:
    network = prepare_pytorch(OURS, build_network(OURS, job["model"]))
    if not isinstance(network, FoldedMobileBertPreTrainedModel):  # only folded models can pack
        return None
    network.set_attn_implementation(PACKED)
    return run_pytorch(network)


def text_inputs(rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Returns random inputs [rows, tokens] without padding."""
    ids = np.random.default_rng(0).integers(1, 100, (rows, tokens))
    return dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def _bind(run: Run, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    return lambda: run(inputs)


if __name__ == "__main__":
    main()
