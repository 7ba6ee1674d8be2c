"""A small student made by the recipes, fine-tuned on GLUE and SQuAD, against chance and the same student from scratch.

    python benchmarks/finetuning.py data/ runs/finetuning

`data/` has `text/` (a corpus), `glue/` (the GLUE layout) and `squad/` (official files). Every step is a command of the
recipes, shown before it runs; what is done already is skipped, so that an interrupted benchmark goes on. It
takes hours. Results go to benchmarks/finetuning/results.json.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import datasets
import typer
from rich.console import Console
from transformers import AutoTokenizer

from mobilebert_hf.data.glue_tasks import TASKS
from mobilebert_hf.data.squad import build_features, load_squad
from mobilebert_hf.files import write_aside
from mobilebert_hf.finetuning.glue_report import percent
from mobilebert_hf.machine import describe_machine
from mobilebert_hf.tables import terminal_table

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks" / "finetuning"
RESULTS = HERE / "results.json"
GLUE = ("sst2", "cola", "mrpc", "rte")
# Small sets of pairs, again after a larger one.
SMALL, LARGE = ("mrpc", "rte"), "qqp"
LARGE_RUN = "batch32-rate0.0005-epochs3-seed1"
HEADINGS = ("task", "score", "commonest class", "from scratch", "student", "each seed")


def commands(data: str, runs: str) -> dict[str, list[str]]:
    """The steps, by the folder that each leaves in `runs`."""
    corpus = ["--corpus", f"{data}/text"]
    glue = ["recipes/glue.py", "--config", "benchmarks/finetuning/glue.yaml", "--data", f"{data}/glue"]
    squad = ["recipes/squad.py", "--config", "benchmarks/finetuning/squad.yaml"]
    squad += ["--train", f"{data}/squad/train-v1.1.json.gz", "--validation", f"{data}/squad/dev-v1.1.json.gz"]
    large = ["--tasks", LARGE, "--holdout", "0.05", "--max_train_examples", "30000"]
    large += ["--num_train_epochs", "3", "--seeds", "1"]
    starts = {"": ["--model", f"{runs}/student"]}
    starts["-scratch"] = [*starts[""], "--random_weights", "true"]
    steps = {
        "teacher": ["recipes/pretrain_teacher.py", "--config", "benchmarks/finetuning/teacher.yaml", *corpus],
        "student": [
            *("recipes/distil_student.py", "--config", "benchmarks/finetuning/student.yaml"),
            *("--teacher", f"{runs}/teacher", *corpus),
        ],
    }
    for suffix, start in starts.items():
        steps[f"glue{suffix}"] = [*glue, *start]
        steps[f"large{suffix}"] = [*glue, *start, *large]
        for small in SMALL:
            model = f"{runs}/large{suffix}/{TASKS[LARGE].name}/{LARGE_RUN}"
            steps[f"{small}{suffix}"] = [*glue, "--tasks", small, "--model", model]
        steps[f"squad{suffix}"] = [*squad, *start]
    return {name: [*words, "--output_dir", f"{runs}/{name}"] for name, words in steps.items()}


def main(
    data: Annotated[Path, typer.Argument(help="Folder with text/, glue/ and squad/.")],
    runs: Annotated[Path, typer.Argument(help="Folder for the runs.")],
    output: Annotated[Path, typer.Option(help="JSON file for the results.")] = RESULTS,
) -> None:
    """Runs what is missing, and collects the scores."""
    for name, words in commands(str(data), str(runs)).items():
        # What a recipe writes last.
        last = runs / name / ("results.json" if "recipes/glue.py" in words else "eval_results.json")
        if not last.exists():
            Console().print(f"accelerate launch {shlex.join(words)}", highlight=False)
            subprocess.run([sys.executable, *words], check=True, cwd=ROOT)
        if not last.exists():
            sys.exit(f"{name} was interrupted: the same command goes on from there.")
    results = {"machine": describe_machine(), "features": time_features(data, runs), "tasks": collect(runs)}
    write_aside(output, json.dumps(results, indent=1) + "\n")
    Console().print(terminal_table(cells(results), "Fine-tuning a small student"))


def time_features(data: Path, runs: Path) -> dict[str, float]:
    """How long it takes to read all training questions and to make windows of 384 tokens of them, on two cores."""
    tokenizer = AutoTokenizer.from_pretrained(runs / "student")
    datasets.disable_caching()
    start = time.monotonic()
    questions = load_squad(str(data / "squad" / "train-v1.1.json.gz"), "train")
    windows = build_features(questions, tokenizer, training=True, processes=2)
    seconds = time.monotonic() - start
    datasets.enable_caching()
    return {"questions": len(questions), "windows": len(windows), "seconds": round(seconds, 1)}


def collect(runs: Path) -> list[dict[str, Any]]:
    """A row a task; scores are shares of 1."""
    rows = [_glue_row(runs, key, "glue", TASKS[key].name) for key in GLUE]
    rows += [_glue_row(runs, key, key, f"{TASKS[key].name} after {TASKS[LARGE].name}") for key in SMALL]
    for name in ("exact_match", "f1"):
        student, from_scratch = (
            json.loads((runs / folder / "eval_results.json").read_text())[f"eval_{name}"] / 100
            for folder in ("squad", "squad-scratch")
        )
        score = {"exact_match": "exact match", "f1": "F1"}[name]
        row = {"task": "SQuAD v1.1", "score": score, "majority": None, "scratch": from_scratch, "student": student}
        rows.append({**row, "seeds": [student]})
    return rows


def _glue_row(runs: Path, key: str, folder: str, name: str) -> dict[str, Any]:
    student, scratch = (
        json.loads((runs / f"{folder}{suffix}" / "results.json").read_text())["tasks"][key]
        for suffix in ("", "-scratch")
    )
    return {
        "task": name,
        "score": ", ".join(student["metrics"]),
        "majority": student["majority"],
        "scratch": scratch["median"],
        "student": student["median"],
        "seeds": list(student["seeds"].values()),
    }


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The results as rows of text, the first one the heading."""
    rows = [
        [
            row["task"],
            row["score"],
            "" if row["majority"] is None else percent(row["majority"]),
            percent(row["scratch"]),
            percent(row["student"]),
            " ".join(percent(score) for score in row["seeds"]),
        ]
        for row in results["tasks"]
    ]
    return [list(HEADINGS), *rows]


if __name__ == "__main__":
    typer.run(main)
