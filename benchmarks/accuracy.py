"""What each export of a fine-tuned student loses on a task, in every format and precision.

    python benchmarks/accuracy.py runs/finetuning data/ runs/exports

`runs/finetuning` is of benchmarks/finetuning.py, whose best SST-2 and SQuAD students are exported; `data/` has `glue/`
and `squad/`, and `text/`, on which ranges are measured. Results go to benchmarks/accuracy/results.json.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mobilebert_hf.data.squad import load_squad
from mobilebert_hf.deployment import FORMATS, export
from mobilebert_hf.deployment.scoring import score_export
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.machine import DIRTY, describe_machine, describe_version
from mobilebert_hf.runs.exports import graph_size, open_manifest, read_manifest
from mobilebert_hf.tables import terminal_table

RESULTS = Path(__file__).parent / "accuracy" / "results.json"
# Each task with its data, the tokens of a text, and what is shown of it.
TASKS = {
    "sst2": ("glue", 128, "accuracy", "SST-2 dev, accuracy"),
    "squad": ("squad/dev-v1.1.json.gz", 192, "f1", "SQuAD v1.1, {questions:,} questions, F1"),
}


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of benchmarks/finetuning.py.")],
    data: Annotated[Path, typer.Argument(help="Folder with text/, glue/ and squad/.")],
    output: Annotated[Path, typer.Argument(help="Folder for the graphs.")],
) -> None:
    """Exports and scores both students."""
    [classifier] = [path.parent for path in runs.glob("glue/SST-2/*/model.safetensors")]
    graphs: dict[str, Any] = {}
    for (task, (examples, length, *_)), model in zip(TASKS.items(), (classifier, runs / "squad"), strict=True):
        export_all(model, output / task, str(data / "text"))
        score_export(output / task, task, str(data / examples), length)
        for name, graph in read_manifest(output / task).graphs.items():
            graphs.setdefault(name, {})[task] = {"bytes": graph_size(output / task, name), **asdict(graph)}
    RESULTS.parent.mkdir(exist_ok=True)
    questions = len(load_squad(str(data / TASKS["squad"][0]), "validation"))
    results = {"machine": describe_machine(), "questions": questions, "graphs": graphs}
    atomic_write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    Console().print(terminal_table(cells(results), "What exports lose"))


def export_all(model: Path, folder: Path, text: str) -> None:
    """Exports a student in every way that this version has not written there yet."""
    graphs, version = open_manifest(folder).graphs, describe_version()
    for name, backend in FORMATS.items():
        for precision, file in backend.FILES.items():
            there = file in graphs and graphs[file].version == version and (folder / file).is_file()
            if not there or version.endswith(DIRTY):
                calibration = [text] if precision == "int8-static" else []
                export(model, folder, name, precision, calibration=calibration)


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The results as rows of text, the first one the heading."""
    shown = {task: metric for task, (_, _, metric, _) in TASKS.items()}
    graphs = results["graphs"]
    reference = next(iter(graphs.values()))
    headings = (heading.format(questions=results["questions"]) for *_, heading in TASKS.values())
    rows = [["graph", "size", *headings]]
    scores = [f"{reference[task]['scores'][task]['pytorch'][metric]:.2f}" for task, metric in shown.items()]
    rows.append(["PyTorch, float32", "", *scores])
    for name, graph in graphs.items():
        row = [f"`{name}`", ""]
        for task, metric in shown.items():
            row[1] = f"{graph[task]['bytes'] / 1e6:.1f} MB"
            found = graph[task]["scores"][task]
            row.append(f"{found['graph'][metric] - found['pytorch'][metric]:+.2f}")
        rows.append(row)
    return rows


if __name__ == "__main__":
    typer.run(main)
