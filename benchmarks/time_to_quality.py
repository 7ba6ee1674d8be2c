"""Score against latency and file size, for students that are trained for equal times.

    python benchmarks/time_to_quality.py --teacher sentence-transformers/all-MiniLM-L6-v2 --corpus my-text/ \
        --task-data GLUE --minutes 5 --minutes 30

Every student of time_to_quality/students.yaml is distilled for each number of minutes, one after the other on an idle
machine, and exported to ONNX Runtime and LiteRT in float32 and int8. All graphs are timed in turns, on one text of 128
tokens. The score is Spearman's correlation on STS-B, without training on it; the teacher is in the table too, and with
`--static`, for which model2vec has to be installed, a static model made of it. Runs that are there already are not
repeated, and interrupted ones go on. Results go to time_to_quality/results.json, the picture beside.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import typer
import yaml
from rich.console import Console
from transformers import AutoModel

from distillation import Graph
from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.deployment import FORMATS, export
from mobilebert_hf.deployment.benchmark.networks import Setting, write_stock
from mobilebert_hf.deployment.student import INPUTS
from mobilebert_hf.distillation import DistillationArguments, StudentArguments, distill
from mobilebert_hf.distillation.loading import Consent
from mobilebert_hf.distillation.sentence_encoder import load_sentence_modules, score_similarity
from mobilebert_hf.files import atomic_write, atomic_write_text
from mobilebert_hf.machine import describe_machine, time_interleaved
from mobilebert_hf.tables import terminal_table
from mobilebert_hf.tasks.glue_data import load_glue
from mobilebert_hf.tasks.glue_tasks import TASKS
from mobilebert_hf.tasks.heads import TASKS as HEADS

FOLDER = Path(__file__).parent / "time_to_quality"
RESULTS = FOLDER / "results.json"
GRAPHS = {"onnx": ("ONNX Runtime", (None, "int8")), "tflite": ("LiteRT", (None, "int8"))}
LENGTH = 128
SECONDS = 6.0


def main(
    teacher: Annotated[str, typer.Option(help="Sentence encoder: Hub id or folder.")],
    corpus: Annotated[list[str], typer.Option(help="File, folder, glob, or Hub data set; can be repeated.")],
    task_data: Annotated[str, typer.Option(help="GLUE's folder, for STS-B.")],
    minutes: Annotated[list[float], typer.Option(help="Minutes of training; can be repeated.")],
    output: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/time_to_quality"),
    students: Annotated[Path, typer.Option(help="YAML file of the students.")] = FOLDER / "students.yaml",
    threads: Annotated[int, typer.Option(help="Threads of the runtimes.")] = 2,
    static: Annotated[bool, typer.Option(help="Whether to score a static model, too (model2vec).")] = False,
) -> None:
    """Trains what is missing, times and scores everything, and draws it."""
    chosen = yaml.safe_load(students.read_text(encoding="utf-8"))
    runs = {
        (name, budget): train(fields, budget, teacher, corpus, output / f"{name} {budget:g}")
        for budget in minutes
        for name, fields in chosen.items()
    }
    splits = load_glue(TASKS["stsb"], task_data)
    split = next(name for name in ("validation", "train") if name in splits)
    results: dict[str, Any] = {"machine": describe_machine(), "threads": threads, "split": split, "length": LENGTH}
    results["teacher"] = measure_teacher(teacher, output / "teacher", splits[split], threads)
    results["students"] = [
        {"name": name, "minutes": budget, "steps": steps(folder), **measure(folder, splits[split], threads)}
        for (name, budget), folder in runs.items()
    ]
    if static:
        results["static"] = measure_static(teacher, splits[split])
    atomic_write_text(RESULTS, json.dumps(results, indent=2))
    draw(results)
    Console().print(terminal_table(cells(results), "time to quality"))


def train(fields: dict[str, Any], minutes: float, teacher: str, corpus: list[str], folder: Path) -> Path:
    """The folder of a run, which is made unless it is there."""
    if not (folder / "results.json").is_file():
        overrides = json.dumps(fields["config_overrides"]) if "config_overrides" in fields else None
        distill(
            StudentArguments(**{**fields, "teacher": teacher, "config_overrides": overrides}),
            PretrainingDataArguments(corpus=corpus),
            DistillationArguments(output_dir=str(folder), minutes=minutes, use_cpu=True, report_to="none"),
        )
    return folder


def steps(folder: Path) -> int:
    """The steps of a run."""
    return int(json.loads((folder / "results.json").read_text())["steps"])


def measure(folder: Path, pairs: Any, threads: int) -> dict[str, Any]:
    """Sizes, latencies and scores of a student's graphs; exports those that are missing."""
    files = {}
    for format_name, (runtime, kinds) in GRAPHS.items():
        for kind in kinds:
            path = folder / "exported" / FORMATS[format_name].FILES[kind]
            if not path.is_file():
                export(str(folder), folder / "exported", format_name, kind)
            files[f"{runtime} {kind or 'float32'}"] = (format_name, path)
    parameters = json.loads((folder / "results.json").read_text())["student"]["parameters"]
    return {
        "parameters": parameters,
        "graphs": measure_graphs(files, str(folder), pairs, threads),
    }


def measure_teacher(teacher: str, folder: Path, pairs: Any, threads: int) -> dict[str, Any]:
    """The teacher's graphs, exported by the library with ONNX Runtime's fusions."""
    files = {}
    network = AutoModel.from_pretrained(teacher).eval()
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("float32", "int8"):
        files[f"ONNX Runtime {kind}"] = ("onnx", folder / f"{kind}.onnx")
        if not (folder / f"{kind}.onnx").is_file():
            write_stock(network, folder / f"{kind}.onnx", Setting("onnx", kind == "int8", (LENGTH,)))
    parameters = sum(parameter.numel() for name, parameter in network.named_parameters() if "pooler" not in name)
    return {
        "parameters": parameters,
        "graphs": measure_graphs(files, teacher, pairs, threads),
    }


def measure_graphs(
    files: dict[str, tuple[str, Path]], model: str, pairs: Any, threads: int
) -> dict[str, dict[str, float]]:
    """Bytes, median milliseconds and score of graphs, timed in turns, each runtime by itself."""
    graphs: dict[str, dict[str, float]] = {}
    modules = load_sentence_modules(model, Consent())
    modules.limit(LENGTH)
    ids = np.random.default_rng(0).integers(1000, 20_000, (1, LENGTH))
    inputs = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
    for format_name in dict.fromkeys(name for name, _ in files.values()):
        own = {name: path for name, (format_, path) in files.items() if format_ == format_name}
        runs = {name: FORMATS[format_name].load(path, HEADS["Model"], threads) for name, path in own.items()}
        times = time_interleaved({name: lambda run=run: run(inputs) for name, run in runs.items()}, SECONDS)
        for name, path in own.items():
            [score] = score_similarity(Graph(runs[name]), modules, pairs)
            graphs[name] = {
                "bytes": path.stat().st_size,
                "milliseconds": statistics.median(times[name]),
                "score": 100 * score,
            }
    return graphs


def measure_static(teacher: str, pairs: Any) -> dict[str, float]:
    """A static model of the teacher's output for each token alone, by model2vec."""
    from model2vec.distill import distill as distill_static
    from scipy.stats import spearmanr

    model = distill_static(teacher)
    first, second = (model.encode(pairs[column][:]) for column in ("sentence1", "sentence2"))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    score = spearmanr(np.nan_to_num(cosines), pairs["label"][:]).statistic
    return {"bytes": model.embedding.size * 4, "milliseconds": 0.0, "score": 100 * float(score)}


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The rows of the table."""
    columns = ("ONNX Runtime float32", "ONNX Runtime int8", "LiteRT int8")
    rows = [["", "minutes", "parameters", *(f"{name}: score, ms, MB" for name in columns)]]
    entries = [{"name": "teacher", "minutes": None, **results["teacher"]}, *results["students"]]
    for entry in entries:
        budget = "" if entry["minutes"] is None else f"{entry['minutes']:g}"
        graphs = (entry["graphs"].get(name) for name in columns)
        shown = (f"{g['score']:.1f}, {g['milliseconds']:.1f}, {g['bytes'] / 1e6:.1f}" if g else "" for g in graphs)
        rows.append([entry["name"], budget, f"{entry['parameters'] / 1e6:.1f}M", *shown])
    if "static" in results:
        found = results["static"]
        rows.append(["static (model2vec)", "", "", f"{found['score']:.1f}, -, {found['bytes'] / 1e6:.1f}", "", ""])
    return rows


def draw(results: dict[str, Any]) -> None:
    """Scores against latency in float32 and against file size in int8, in ONNX Runtime."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    kinds = (("ONNX Runtime float32", "milliseconds", 1.0), ("ONNX Runtime int8", "bytes", 1e-6))
    markers = dict(zip(dict.fromkeys(entry["name"] for entry in results["students"]), "os^Dv<>pX*", strict=False))
    for axes, (graph, quantity, unit) in zip(panels, kinds, strict=True):
        for entry in results["students"]:
            found = entry["graphs"][graph]
            size = 30 + 2 * entry["minutes"]
            axes.scatter(unit * found[quantity], found["score"], size, marker=markers[entry["name"]],
                         label=f"{entry['name']}, {entry['minutes']:g} min")  # fmt: skip
        found = results["teacher"]["graphs"][graph]
        axes.scatter(unit * found[quantity], found["score"], 60, marker="P", color="black", label="teacher")
        axes.grid(alpha=0.3)
    panels[0].set(
        xlabel=f"ms for {results['length']} tokens, float32", ylabel=f"STS-B {results['split']}, Spearman x 100"
    )
    panels[1].set(xlabel="MB of the file, int8")
    panels[1].legend(frameon=False, fontsize=7)
    with atomic_write(RESULTS.with_suffix(".png")) as staging:
        figure.savefig(staging, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
