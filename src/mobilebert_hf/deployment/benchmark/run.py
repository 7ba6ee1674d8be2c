"""The benchmark: writes all graphs once, times each runtime in a process of its own, and shows table and plot."""

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
# Which module of this package says where the student's time goes.
DETAILS = {"onnx": "products", "openvino": "products", "tflite": "parts"}
# Beside a graph: of which network it is, and by which version.
MADE = "made.json"
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
    """Times a student beside stock MobileBERT, DistilBERT and BERT_BASE on every runtime, in each of its precisions.

    Args:
        output: Folder for `results.json`, `results.png` and the graphs; graphs that are there are used again, and so
            are results on other runtimes, of the same networks, shapes, texts, threads and machine.
        model: Hub id or folder of a student; by default random weights of MobileBERT's size, which are as fast.
        runtimes: Of `RUNTIMES`.
        threads: For each runtime.
        shapes: Rows and tokens.
        seconds: For each network, precision and shape.
        questions: SQuAD questions (a file or Hub data set), to time texts of mixed lengths too, with `model`'s
            tokenizer. In LiteRT stock's graphs have fixed lengths, of which a text is padded to the next.

    Returns:
        The results, as in `results.json`.

    Raises:
        ChildProcessError: A runtime failed.
        ImportError: A runtime's packages are not installed.
        ValueError: A runtime is unknown, a text is too long, or there are questions but no model.
    """
    if unknown := [name for name in runtimes if name not in RUNTIMES]:
        raise ValueError(f"runtimes={unknown}: expected some of {', '.join(RUNTIMES)}.")
    for name in FORMATS.keys() & set(runtimes):  # PyTorch is here
        find_format(name)
    if questions is not None and model is None:
        raise ValueError("questions are cut into tokens by a model's tokenizer: name a model, too.")
    texts = [] if model is None or questions is None else sample_lengths(model, questions)
    networks = build_networks(model)
    longest = min(network.config.max_position_embeddings for network in networks.values())
    if too_long := [tokens for _, tokens in shapes if tokens > longest]:
        raise ValueError(f"shapes of {', '.join(map(str, too_long))} tokens: the networks take {longest} at most.")
    lengths = tuple(sorted({tokens for _, tokens in shapes}))
    sizes = {
        name: {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "flops": {str(tokens): count_flops(network, tokens) for tokens in lengths},
        }
        for name, network in networks.items()
    }
    mixed: dict[str, Any] = {"lengths": texts, "rows": []}
    results: dict[str, Any] = {"machine": describe_machine(), "threads": threads, "networks": sizes}
    results |= {"rows": [], "mixed": mixed, "details": {}}
    keep_others(output / "results.json", results, [RUNTIMES[runtime] for runtime in runtimes], shapes)
    longest_text = max(texts, default=0)
    traced = lengths if longest_text <= lengths[-1] else (*lengths, longest_text)
    settings = [Setting(runtime, precision, traced) for runtime in runtimes for precision in precisions_of(runtime)]
    output.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        todo = progress.add_task("", total=len(settings))
        for setting in settings:
            name = f"{RUNTIMES[setting.runtime]}, {setting.precision}"
            progress.update(todo, description=f"{name}: exporting")
            graphs = write_graphs(networks, output / "graphs", setting)
            progress.update(todo, description=f"{name}: timing")
            job: dict[str, Any] = {
                "format": setting.runtime,
                "graphs": {key: str(path) for key, path in graphs.items()},
                "threads": threads,
                "shapes": shapes,
                "seconds": seconds,
                "lengths": texts,
                "model": model,
                "precision": setting.precision,
            }
            labels = {"runtime": RUNTIMES[setting.runtime], "precision": setting.precision}
            measured = _work(job)
            results["rows"] += _rows(job, measured["times"], {**labels, "version": describe_version()})
            mixed["rows"] += [
                {**labels, "way": way, "median_ms": median(times)} for way, times in measured["mixed"].items()
            ]
            if _has_details(networks[OURS], setting):
                found = results["details"].setdefault(RUNTIMES[setting.runtime], {})
                found[setting.precision] = _work(job, DETAILS[setting.runtime])
            order = list(RUNTIMES.values()).index
            for rows in (results["rows"], mixed["rows"]):
                rows.sort(key=lambda row: order(row["runtime"]))
            results["details"] = {name: results["details"][name] for name in sorted(results["details"], key=order)}
            atomic_write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
            progress.advance(todo)
    if any(row["bytes"] is not None for row in results["rows"]):
        plot(results, output / "results.png")
    for table in tables(results):
        Console().print(table)
    return results


def keep_others(
    path: Path, results: dict[str, Any], measured: Sequence[str], shapes: Sequence[tuple[int, int]]
) -> None:
    """Puts into new results what an earlier benchmark found on runtimes that are not measured now, of these shapes."""
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
    results["details"] = {name: found for name, found in earlier["details"].items() if name not in measured}


def parse_shape(text: str) -> tuple[int, int]:
    """`"1x128"` as rows and tokens.

    Raises:
        ValueError: It is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"shape={text!r}: expected rows and tokens, as 1x128.")
    return int(match[1]), int(match[2])


def write_graphs(networks: dict[str, PreTrainedModel], folder: Path, setting: Setting) -> dict[str, Path]:
    """The graph of each network, written if there is none yet of this network by this version."""
    if setting.runtime == "pytorch":
        return dict.fromkeys(networks, Path())
    suffix = Path(FORMATS[setting.runtime].FILES[None]).suffix
    paths = {}
    for name, network in networks.items():
        stem = "-".join([*re.findall(r"\w+", name.lower()), "int8" if setting.int8 else "float32"])
        if setting.runtime == "tflite":  # where graphs of others have their lengths inside
            stem += "".join(f"-{length}" for length in setting.lengths)
        paths[name] = folder / setting.runtime / stem / f"graph{suffix}"
        made = {"fingerprint": fingerprint(network), "version": describe_version()}
        if not _is_made(paths[name].parent, made):
            paths[name].parent.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(paths[name].parent) as aside:
                aside.mkdir()
                write = write_ours if name == OURS else write_stock
                write(network, aside / paths[name].name, setting)
                (aside / MADE).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return paths


def _is_made(folder: Path, made: dict[str, str]) -> bool:
    """Whether a graph was made like that; a version does not tell which changes there are that are in no commit."""
    if not (folder / MADE).exists() or made["version"].endswith(DIRTY):
        return False
    return json.loads((folder / MADE).read_text(encoding="utf-8")) == made


def _has_details(network: PreTrainedModel, setting: Setting) -> bool:
    """Whether it can be told where the student's time goes; parts are those of a folded one."""
    module = DETAILS.get(setting.runtime) if setting.precision != "bfloat16" else None
    return module == "products" or (module == "parts" and network.config.normalization_type == "no_norm")


def _rows(job: dict[str, Any], times: dict[str, Any], labels: dict[str, str]) -> list[dict[str, Any]]:
    """The times of each graph, and its memory in a process by itself."""
    rows = []
    for name, path in job["graphs"].items():
        alone = _work({**job, "graphs": {name: path}, "shapes": job["shapes"][:1], "seconds": 0.0, "lengths": []})
        for shape, by_name in times.items():
            batch, tokens = parse_shape(shape)
            middle = median(by_name[name])
            rows.append(
                {
                    **labels,
                    "network": name,
                    "rows": batch,
                    "tokens": tokens,
                    "median_ms": middle,
                    "p90_ms": float(np.percentile(by_name[name], 90)),
                    "texts_per_second": 1e3 * batch / middle,
                    "bytes": None if job["format"] == "pytorch" else graph_size(Path(path).parent, Path(path).name),
                    "peak_memory": alone["peak_memory"],
                }
            )
    return rows


def _work(job: dict[str, Any], module: str = "worker") -> dict[str, Any]:
    """What a module of this package, run by itself, says to a job; other lines that libraries print are skipped."""
    command = [sys.executable, "-m", f"{__package__}.{module}"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"Timing {job['format']} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
