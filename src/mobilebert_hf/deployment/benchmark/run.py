"""Runs the speed benchmark: writes all graphs, times each runtime in its own process, prints tables and a plot."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedModel

from ...files import atomic_write, atomic_write_text
from ...machine import DIRTY, describe_machine, describe_version
from ...runs.exports import fingerprint, graph_size
from ..exporting import find_format
from ..formats import FORMATS
from .mixed import sample_lengths
from .networks import OURS, Setting, build_networks, count_flops, precisions_of, write_ours, write_stock
from .report import plot, tables

RUNTIMES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO", "tflite": "LiteRT"}
# File beside a cached graph with the fingerprint of its network and the version that wrote it.
SOURCE = "source.json"
# Batch size and sequence length.
SHAPES = ((1, 128), (1, 384), (16, 128), (16, 384))


def run_benchmark(
    output: Path,
    model: str | None = None,
    runtimes: Sequence[str] = tuple(RUNTIMES),
    threads: int = 2,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    seconds: float = 5.0,
    questions: str | None = None,
) -> dict[str, Any]:
    """Times a student, stock MobileBERT, DistilBERT and BERT_BASE on every runtime, in all its precisions.

    Args:
        output: Folder for `results.json`, `results.png` and the graphs. Reuses existing graphs, and results of other
            runtimes with the same networks, shapes, texts, threads and machine.
        model: Hub id or folder of a student. By default a MobileBERT of the paper's size with random weights.
        runtimes: Keys of `RUNTIMES`.
        threads: Number of threads of each runtime.
        shapes: Batch sizes and sequence lengths.
        seconds: Measuring time for each network, precision and shape.
        questions: SQuAD questions (a file or Hub data set). Adds a benchmark of texts of mixed lengths, with the
            tokenizer of `model`. Stock MobileBERT in LiteRT has fixed lengths, to which texts are padded.

    Returns:
        The contents of `results.json`.

    Raises:
        ChildProcessError: A runtime failed.
        ImportError: The packages of a runtime are not installed.
        ValueError: A runtime is unknown, a shape is too long, or `questions` is given without `model`.
    """
    if unknown := [name for name in runtimes if name not in RUNTIMES]:
        raise ValueError(f"runtimes={unknown}: expected some of {', '.join(RUNTIMES)}.")
    for name in FORMATS.keys() & set(runtimes):
        find_format(name)
    if questions is not None and model is None:
        raise ValueError("questions needs a tokenizer. Pass model, too.")
    texts = [] if model is None or questions is None else sample_lengths(model, questions)
    networks = build_networks(model)
    lengths = tuple(sorted({tokens for _, tokens in shapes}))
    max_length = min(network.config.max_position_embeddings for network in networks.values())
    if lengths[-1] > max_length:
        raise ValueError(f"shapes of {lengths[-1]} tokens: expected at most {max_length}.")
    results = _new_results(networks, threads, lengths, texts)
    reuse_results(output / "results.json", results, [RUNTIMES[runtime] for runtime in runtimes], shapes)
    lengths = tuple(sorted({*lengths, max((*lengths, *texts))}))
    settings = [Setting(runtime, precision, lengths) for runtime in runtimes for precision in precisions_of(runtime)]
    output.mkdir(parents=True, exist_ok=True)
    job = {"threads": threads, "shapes": shapes, "seconds": seconds, "lengths": texts, "model": model}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(settings))
        for setting in settings:
            progress.update(task, description=f"{RUNTIMES[setting.runtime]}, {setting.precision}")
            _measure(setting, networks, output, job, results)
            progress.advance(task)
    if any(row["bytes"] is not None for row in results["rows"]):
        plot(results, output / "results.png")
    for table in tables(results):
        Console().print(table)
    return results


def _new_results(
    networks: dict[str, PreTrainedModel], threads: int, lengths: Sequence[int], texts: list[int]
) -> dict[str, Any]:
    """Returns results without times, with the parameters and FLOPs of each network."""
    sizes = {
        name: {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "flops": {str(tokens): count_flops(network, tokens) for tokens in lengths},
        }
        for name, network in networks.items()
    }
    results = {"machine": describe_machine(), "threads": threads, "networks": sizes}
    return {**results, "rows": [], "mixed": {"lengths": texts, "rows": []}}


def _measure(
    setting: Setting, networks: dict[str, PreTrainedModel], output: Path, job: dict[str, Any], results: dict[str, Any]
) -> None:
    """Times all networks in a runtime and precision. Adds the times to the results and writes `results.json`."""
    runtime = RUNTIMES[setting.runtime]
    graphs = write_graphs(networks, output / "graphs", setting)
    job = {
        **job,
        "format": setting.runtime,
        "precision": setting.precision,
        "graphs": {name: str(path) for name, path in graphs.items()},
    }
    labels = {"runtime": runtime, "precision": setting.precision}
    measured = run_job(job)
    results["rows"] += _rows(job, measured["times"], {**labels, "version": describe_version()})
    results["mixed"]["rows"] += [
        {**labels, "way": way, "median_ms": median(times)} for way, times in measured["mixed"].items()
    ]
    order = list(RUNTIMES.values()).index
    for rows in (results["rows"], results["mixed"]["rows"]):
        rows.sort(key=lambda row: order(row["runtime"]))
    atomic_write_text(output / "results.json", json.dumps(results, indent=1) + "\n")


def reuse_results(
    path: Path, results: dict[str, Any], measured: Sequence[str], shapes: Sequence[tuple[int, int]]
) -> None:
    """Copies earlier results of the runtimes that are not measured now, if they have the same shapes and settings.

    Args:
        path: `results.json` of the earlier benchmark; it need not exist.
        results: The new results, changed in place.
        measured: Runtimes that are measured now, by their names in the results.
        shapes: Batch sizes and sequence lengths.
    """
    if not path.exists():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if {(row["rows"], row["tokens"]) for row in earlier["rows"]} != set(shapes):
        return

    def setting(found: dict[str, Any]) -> Any:
        machine = {**found["machine"], "version": None}
        return json.loads(json.dumps([machine, found["threads"], found["networks"], found["mixed"]["lengths"]]))

    if setting(earlier) != setting(results):
        return
    results["rows"] = [row for row in earlier["rows"] if row["runtime"] not in measured]
    results["mixed"]["rows"] = [row for row in earlier["mixed"]["rows"] if row["runtime"] not in measured]


def parse_shape(text: str) -> tuple[int, int]:
    """Parses `"1x128"` to batch size and sequence length.

    Raises:
        ValueError: The text has another form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"shape={text!r}: expected batch size and sequence length, such as 1x128.")
    return int(match[1]), int(match[2])


def write_graphs(networks: dict[str, PreTrainedModel], folder: Path, setting: Setting) -> dict[str, Path]:
    """Returns the path of each network's graph. Writes it unless the same version has written the same network."""
    if setting.runtime == "pytorch":
        return dict.fromkeys(networks, Path())
    suffix = Path(FORMATS[setting.runtime].FILES[None]).suffix
    paths = {}
    for name, network in networks.items():
        stem = "-".join([*re.findall(r"\w+", name.lower()), "int8" if setting.int8 else "float32"])
        if setting.runtime == "tflite":  # other networks have a signature for each length
            stem += "".join(f"-{length}" for length in setting.lengths)
        paths[name] = folder / setting.runtime / stem / f"graph{suffix}"
        source = {"fingerprint": fingerprint(network), "version": describe_version()}
        if not _is_cached(paths[name].parent, source):
            paths[name].parent.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(paths[name].parent) as staging:
                staging.mkdir()
                write = write_ours if name == OURS else write_stock
                write(network, staging / paths[name].name, setting)
                (staging / SOURCE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    return paths


def _is_cached(folder: Path, source: dict[str, str]) -> bool:
    """Returns whether a graph has this source. Graphs of a version with uncommitted changes are never reused."""
    if not (folder / SOURCE).exists() or source["version"].endswith(DIRTY):
        return False
    return json.loads((folder / SOURCE).read_text(encoding="utf-8")) == source


def _rows(job: dict[str, Any], times: dict[str, Any], labels: dict[str, str]) -> list[dict[str, Any]]:
    """Returns a row for each graph and shape. Peak memory is measured in a separate process for each graph."""
    rows = []
    for name, path in job["graphs"].items():
        alone = run_job({**job, "graphs": {name: path}, "shapes": job["shapes"][:1], "seconds": 0.0, "lengths": []})
        for shape, by_name in times.items():
            batch, tokens = parse_shape(shape)
            median_ms = median(by_name[name])
            rows.append(
                {
                    **labels,
                    "network": name,
                    "rows": batch,
                    "tokens": tokens,
                    "median_ms": median_ms,
                    "p90_ms": float(np.percentile(by_name[name], 90)),
                    "texts_per_second": 1e3 * batch / median_ms,
                    "bytes": None if job["format"] == "pytorch" else graph_size(Path(path).parent, Path(path).name),
                    "peak_memory": alone["peak_memory"],
                }
            )
    return rows


def run_job(job: dict[str, Any], worker: Sequence[str] = ("-m", f"{__package__}.worker")) -> dict[str, Any]:
    """Runs a job by a Python module or script in its own process.

    Args:
        job: Input of the script, in JSON.
        worker: Arguments of Python.

    Returns:
        What the script prints in its last line, in JSON.

    Raises:
        ChildProcessError: The script failed.
    """
    done = subprocess.run([sys.executable, *worker], input=json.dumps(job), capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"Timing {job['format']} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
