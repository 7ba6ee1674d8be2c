"""The process that times one runtime: every graph in turns, so that what disturbs the machine disturbs all of them.

    python -m mobilebert_hf.deployment.benchmark.worker < job.json > times.json

Runtimes have their own pools of threads, which spin; so each has its own process.
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
from .mixed import ways
from .networks import OURS, build_network, prepare_pytorch


def main() -> None:
    """Reads a job from standard input and writes its times to standard output."""
    job = json.load(sys.stdin)
    json.dump(measure(job), sys.stdout)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Times every graph of a job.

    Args:
        job: `format`, `precision`, `threads`, `graphs` (from name to path), `shapes` ([rows, tokens]), `seconds` for
            each graph and shape; `lengths` of texts that are timed as a set, none if empty; `model` for PyTorch.

    Returns:
        `times`: from shape, as `"1x128"`, to name to the milliseconds of each call; `mixed`: from name and way to the
        milliseconds of each pass over all texts; `peak_memory`: bytes that this process took beyond Python and its
        libraries.
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
        mixed = time_interleaved(ways(runs, packed, job["lengths"]), job["seconds"])
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
    if not isinstance(network, FoldedMobileBertPreTrainedModel):  # which alone can pack
        return None
    network.set_attn_implementation(PACKED)
    return run_pytorch(network)


def text_inputs(rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Texts without padding, which all networks would compute alike."""
    ids = np.random.default_rng(0).integers(1, 100, (rows, tokens))
    return dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def _bind(run: Run, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    return lambda: run(inputs)


if __name__ == "__main__":
    main()
