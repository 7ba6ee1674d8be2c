"""A student of a sentence encoder beside its teacher, in ONNX Runtime: sizes, speeds, and what 8 bits cost.

    mobilebert-hf distill --teacher TEACHER --corpus my-text/ --output runs/mine
    python benchmarks/distillation.py runs/mine --teacher TEACHER --corpus my-text/ --task-data GLUE

The student is exported by this package, in int8 statically quantized if its norms can be folded, else dynamically; the
teacher by the exporter of transformers with ONNX Runtime's fusions, dynamically quantized, its best there. All graphs
are timed in turns, on one text of 128 tokens with two threads. STS-B's Spearman correlation is that of its
validation split or, where there is none, of its training split: neither network was trained on it here. Results go to
benchmarks/distillation/results.json, with those of the run, whose configuration, recipe and picture come along: the
student's card is made of them.
"""

import json
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from transformers import AutoModel

from mobilebert_hf.deployment import FORMATS, export
from mobilebert_hf.deployment.benchmark.networks import Setting, write_stock
from mobilebert_hf.deployment.check import Run
from mobilebert_hf.deployment.network import foldable
from mobilebert_hf.deployment.student import INPUTS
from mobilebert_hf.distillation.loading import Consent
from mobilebert_hf.distillation.report import result_rows
from mobilebert_hf.distillation.sentence_encoder import load_sentence_modules, score_similarity
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.hub.run_card import remove_local_paths
from mobilebert_hf.machine import describe_machine, time_interleaved
from mobilebert_hf.runs.facts import FACTS, PICTURE
from mobilebert_hf.runs.run_folder import RECIPE, Recipe
from mobilebert_hf.tables import terminal_table
from mobilebert_hf.tasks.glue_data import load_glue
from mobilebert_hf.tasks.glue_tasks import TASKS
from mobilebert_hf.tasks.heads import TASKS as HEADS

RESULTS = Path(__file__).parent / "distillation" / "results.json"
LENGTH = 128
THREADS = 2
SECONDS = 5.0


class Graph:
    """A graph that is called as a model is."""

    device = torch.device("cpu")

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The last hidden state of a batch."""
        states = self.run({name: value.numpy() for name, value in inputs.items()})["last_hidden_state"]
        return SimpleNamespace(last_hidden_state=torch.from_numpy(states))


def main(
    student: Annotated[Path, typer.Argument(help="Output of `mobilebert-hf distill`.")],
    teacher: Annotated[str, typer.Option(help="Hub id or folder.")],
    corpus: Annotated[list[str], typer.Option(help="Text to measure ranges on; can be repeated.")],
    task_data: Annotated[str, typer.Option(help="GLUE's folder, for STS-B.")],
    output: Annotated[Path, typer.Option(help="Folder for the graphs.")] = Path("runs/distillation"),
) -> None:
    """Exports, times and scores both networks."""
    files = {}
    folds = foldable(AutoModel.from_pretrained(student))
    for precision, quantize in (("float32", None), ("int8", "int8-static" if folds else "int8")):
        export(
            str(student), output / "student", "onnx", quantize, calibration=corpus if quantize == "int8-static" else []
        )
        files[f"student, {precision}"] = output / "student" / FORMATS["onnx"].FILES[quantize]
        network = AutoModel.from_pretrained(teacher).eval()
        files[f"teacher, {precision}"] = output / f"teacher_{precision}.onnx"
        write_stock(network, files[f"teacher, {precision}"], Setting("onnx", precision == "int8", (LENGTH,)))
    runs = {name: FORMATS["onnx"].load(path, HEADS["Model"], THREADS) for name, path in files.items()}
    ids = np.random.default_rng(0).integers(1000, 20_000, (1, LENGTH))
    inputs = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
    times = time_interleaved({name: lambda run=run: run(inputs) for name, run in runs.items()}, SECONDS)
    splits = load_glue(TASKS["stsb"], task_data)
    split = next(name for name in ("validation", "train") if name in splits)
    modules = load_sentence_modules(str(student), Consent())
    modules.limit(LENGTH)
    results = {
        **json.loads((student / "results.json").read_text()),
        "machine": describe_machine(),
        "threads": THREADS,
        "graphs": {
            name: {
                "bytes": files[name].stat().st_size,
                "milliseconds": statistics.median(times[name]),
                "task": score_similarity(Graph(run), modules, splits[split])[0],
            }
            for name, run in runs.items()
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    atomic_write_text(RESULTS, json.dumps(results, indent=2))
    for name in ("config.json", FACTS, PICTURE):
        shutil.copyfile(student / name, RESULTS.parent / name)
    recipe = Recipe.read(student / RECIPE)
    recipe._replace(values=remove_local_paths(recipe.values)).write(RESULTS.parent / RECIPE)
    Console().print(terminal_table(cells(results), "teacher and student"))


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The run's table, and rows for the graphs."""
    rows = [row for row in result_rows(results) if "latency" not in row[0] and "size" not in row[0]]
    for precision in ("float32", "int8"):
        teacher, student = (results["graphs"][f"{name}, {precision}"] for name in ("teacher", "student"))
        graph = f"ONNX {precision}"
        rows += [
            [f"{graph}, size", *(f"{part['bytes'] / 1e6:.1f} MB" for part in (teacher, student))],
            [
                f"{graph}, {LENGTH} tokens",
                f"{teacher['milliseconds']:.1f} ms",
                f"{student['milliseconds']:.1f} ms ({teacher['milliseconds'] / student['milliseconds']:.1f}x)",
            ],
            [
                f"{graph}, STS-B {results['task']['split']}, Spearman",
                *(f"{100 * part['task']:.2f}" for part in (teacher, student)),
            ],
        ]
    return rows


if __name__ == "__main__":
    typer.run(main)
