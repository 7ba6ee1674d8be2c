"""Speeds of a student on every runtime, and what limits them: the time of each operator, and the machine's peak.

    python benchmarks/deployment.py runs/speed --model MODEL --questions dev-v1.1.json
    python benchmarks/deployment.py runs/speed --model MODEL --questions dev-v1.1.json --runtime onnx

The first times all runtimes as `mobilebert-hf benchmark` does and profiles the student; the second times one again.
The results of benchmarks/deployment are the `results.json` and `results.png` of the output folder.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers import PreTrainedModel

from mobilebert_hf.deployment.benchmark import run_benchmark
from mobilebert_hf.deployment.benchmark.networks import BERT, OURS, STOCK, Setting, build_network, precisions_of
from mobilebert_hf.deployment.benchmark.report import medians_of
from mobilebert_hf.deployment.benchmark.run import RUNTIMES, SHAPES, run_job, write_graphs
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.tables import Rows, terminal_table

HERE = Path(__file__).parent
RESULTS = HERE / "deployment" / "results.json"
# The script that profiles a runtime.
PROFILES = {"onnx": "operators.py", "openvino": "operators.py", "tflite": "parts.py"}


def main(
    output: Annotated[Path, typer.Argument(help="Folder for results and graphs.")],
    model: Annotated[str | None, typer.Option(help="Folder of a student. By default random weights.")] = None,
    runtime: Annotated[list[str] | None, typer.Option(help="By default all. Can be given several times.")] = None,
    threads: Annotated[int, typer.Option(help="Number of threads of each runtime.")] = 2,
    seconds: Annotated[float, typer.Option(help="Measuring time for each network, precision and shape.")] = 5.0,
    questions: Annotated[str | None, typer.Option(help="SQuAD file, for texts of mixed lengths.")] = None,
) -> None:
    """Measures and profiles."""
    path, runtimes = output / "results.json", runtime or list(RUNTIMES)
    earlier = json.loads(path.read_text(encoding="utf-8"))["details"] if path.exists() else {}
    results = run_benchmark(output, model, runtimes, threads, SHAPES, seconds, questions)
    lengths = {*(tokens for _, tokens in SHAPES), *results["mixed"]["lengths"]}
    job = {"threads": threads, "shapes": SHAPES, "seconds": seconds, "model": model}
    for name in runtimes:
        earlier[RUNTIMES[name]] = profile(name, build_network(OURS, model), output, job, tuple(sorted(lengths)))
    measured = dict.fromkeys(row["runtime"] for row in results["rows"])
    results["details"] = {name: earlier[name] for name in measured if earlier.get(name)}
    atomic_write_text(path, json.dumps(results, indent=1) + "\n")
    for name, precisions in results["details"].items():
        for precision in precisions:
            Console().print(terminal_table(detail_cells(results, name, precision), f"{name}, {precision}"))
    Console().print(terminal_table(limit_cells(results), "Measured and possible speedups"))


def profile(
    runtime: str, student: PreTrainedModel, output: Path, job: dict[str, Any], lengths: tuple[int, ...]
) -> dict[str, Any]:
    """The profiles of the student in a runtime, by precision. Those of LiteRT need a student that can be folded."""
    if runtime not in PROFILES or (runtime == "tflite" and student.config.normalization_type != "no_norm"):
        return {}
    found = {}
    for precision in precisions_of(runtime):
        if precision != "bfloat16":
            # The longest text of mixed lengths is as long as the longest shape.
            graphs = write_graphs({OURS: student}, output / "graphs", Setting(runtime, precision, lengths))
            paths = {name: str(path) for name, path in graphs.items()}
            task = {**job, "format": runtime, "precision": precision, "graphs": paths}
            found[precision] = run_job(task, [str(HERE / PROFILES[runtime])])
    return found


def detail_cells(results: dict[str, Any], runtime: str, precision: str) -> Rows:
    """The profile of the student in a runtime."""
    measured = results["details"][runtime][precision]
    return _operator_cells(measured) if "operators" in measured else _part_cells(measured)


def limit_cells(results: dict[str, Any]) -> Rows:
    """Measured and possible speedups, a row for each runtime and precision.

    "matmuls only" is the speedup if nothing but the student's matmuls took time; "matmuls at peak" if they ran at the
    machine's peak and the rest took as long as now. The last row is the ratio of FLOPs.
    """
    first = results["rows"][0]
    medians = medians_of(results, first["rows"], first["tokens"])
    lines = []
    for runtime, precisions in results["details"].items():
        for precision, measured in precisions.items():
            ours, stock, bert = (medians[runtime, precision, name] for name in (OURS, STOCK, BERT))
            matmuls, at_peak = _limits(measured)
            speeds = stock / ours, stock / ours / matmuls, bert / ours, bert / ours / matmuls, bert / ours / at_peak
            lines.append([f"{runtime}, {precision}", *(f"{speed:.2f}x" for speed in speeds)])
    flops = {name: network["flops"][str(first["tokens"])] for name, network in results["networks"].items()}
    fewer = [f"{flops[name] / flops[OURS]:.2f}x" for name in (STOCK, BERT)]
    limits = [f"vs. {BERT}, matmuls only", f"vs. {BERT}, matmuls at peak"]
    heading = ["", "vs. stock", "vs. stock, matmuls only", f"vs. {BERT}", *limits]
    return [heading, *lines, ["FLOPs", fewer[0], "", fewer[1], "", ""]]


def _limits(measured: dict[str, Any]) -> tuple[float, float]:
    """Two shares of the time: that of the matmuls, and what would remain with all of them at peak."""
    rows = measured.get("operators") or measured["parts"]
    total = sum(row["ms"] for row in rows) if "operators" in measured else rows[-1]["ms"]
    matmuls = [row for row in rows if row["flops"]]
    spent = sum(row["ms"] for row in matmuls)
    needed = sum(row["flops"] for row in matmuls) / measured["peak_gflops"] / 1e6
    return spent / total, 1 - (spent - needed) / total


def _operator_cells(measured: dict[str, Any]) -> list[list[str]]:
    """Operators without FLOPs that take less than 1 % of the time are summed up in the last row."""
    total = sum(row["ms"] for row in measured["operators"])
    lines, rest = [], 0.0
    for row in measured["operators"]:
        if row["ms"] < total / 100 and not row["flops"]:
            rest += row["ms"]
            continue
        gflops = row["flops"] / row["ms"] / 1e6 if row["ms"] else 0.0  # profilers round to microseconds
        lines.append(
            [
                " ".join([row["operator"], " to ".join(map(str, row["widths"]))]).strip(),
                str(row["count"]),
                f"{1e3 * row['ms'] / row['count']:.0f} us",
                f"{100 * row['ms'] / total:.0f} %",
                f"{100 * gflops / measured['peak_gflops']:.0f} %" if gflops else "",
            ]
        )
    heading = ["operator, widths", "calls", "per call", "share of time", "share of peak"]
    return [heading, *lines, ["all others", "", "", f"{100 * rest / total:.0f} %", ""]]


def _part_cells(measured: dict[str, Any]) -> list[list[str]]:
    *parts, whole = measured["parts"]
    rest = whole["ms"] - sum(part["ms"] for part in parts)
    lines = [
        [
            part["part"],
            f"{part['ms']:.1f} ms",
            f"{100 * part['ms'] / whole['ms']:.0f} %",
            f"{100 * part['flops'] / part['ms'] / 1e6 / measured['peak_gflops']:.0f} %",
        ]
        for part in parts
    ]
    others = ["all others", f"{rest:.1f} ms", f"{100 * rest / whole['ms']:.0f} %", ""]
    return [["part of all layers", "time", "share of time", "share of peak"], *lines, others]


if __name__ == "__main__":
    typer.run(main)
