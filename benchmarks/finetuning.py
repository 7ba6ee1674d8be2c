"""A student made by `mobilebert-hf distill`, fine-tuned on GLUE and SQuAD, against chance and the same from scratch.

    mobilebert-hf distill --teacher TEACHER --corpus data/text --output runs/any --minutes 29
    python benchmarks/finetuning.py runs/any data/ runs/finetuning

`data/` has `text/` (a corpus), `glue/` (the GLUE layout) and `squad/` (official files). Every step is a command of the
recipes, shown before it runs, the student's and that from scratch side by side on one half of the cores each; what is
done already is skipped, so that an interrupted benchmark goes on. It takes an hour or more on two cores. Results go to
benchmarks/finetuning/results.json.
"""

import json
import os
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

from mobilebert_hf.data.squad import load_squad
from mobilebert_hf.data.squad_windows import build_features
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.machine import describe_machine
from mobilebert_hf.tables import percent, terminal_table
from mobilebert_hf.tasks.glue_tasks import TASKS

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks" / "finetuning"
RESULTS = HERE / "results.json"
GLUE = ("sst2", "cola", "mrpc", "rte")
# More pairs than the others have.
LARGE = "qqp"
MANY = ["--holdout", "0.02", "--max_train_samples", "30000", "--num_train_epochs", "2", "--seeds", "1"]
# The fewest pairs, read one by one too: the student was made to embed texts, not to compare two of them in one input.
SMALL = "rte"
APART = f"{SMALL}-apart"
# The file that a run writes last, by the name of its YAML file.
LAST = {"glue": "results.json", "squad": "eval_results.json"}
HEADINGS = ("task", "score", "majority class", "from scratch", "student", "each seed")


def commands(student: str, data: str, runs: str) -> list[dict[str, list[str]]]:
    """The steps, by the folder that each leaves in `runs`; those of one dictionary run side by side."""
    recipe = ["recipes/finetune.py", "--config"]
    glue = [*recipe, "benchmarks/finetuning/glue.yaml", "--data", f"{data}/glue"]
    squad = [*recipe, "benchmarks/finetuning/squad.yaml"]
    squad += ["--train", f"{data}/squad/train-v1.1.json.gz", "--validation", f"{data}/squad/dev-v1.1.json.gz"]
    student_weights = ["--model", student]
    random_weights = [*student_weights, "--random_weights", "true"]

    def both(name: str, words: list[str]) -> dict[str, list[str]]:
        return {
            f"{name}{suffix}": [*words, *start, "--output_dir", f"{runs}/{name}{suffix}"]
            for suffix, start in {"": student_weights, "-scratch": random_weights}.items()
        }

    return [
        both("glue", glue),
        both("squad", squad),
        both(LARGE, [*glue, "--task", LARGE, *MANY]),
        both(APART, [*glue, "--task", SMALL, "--bi_encoder", "true", "--num_train_epochs", "2"]),
    ]


def main(
    student: Annotated[Path, typer.Argument(help="Folder of a student, made by mobilebert-hf distill.")],
    data: Annotated[Path, typer.Argument(help="Folder with text/, glue/ and squad/.")],
    runs: Annotated[Path, typer.Argument(help="Folder for the runs.")],
    output: Annotated[Path, typer.Option(help="JSON file for the results.")] = RESULTS,
) -> None:
    """Runs what is missing, and collects the scores."""
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    # Threads that wait do not keep the other run's from their core.
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    for steps in commands(str(student), str(data), str(runs)):
        running = []
        for name, words in steps.items():
            if not (runs / name / LAST[Path(words[2]).stem]).exists():
                Console().print(f"accelerate launch {shlex.join(words)}", highlight=False)
                running.append(subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment))
        for process in running:
            process.wait()
        if not all((runs / name / LAST[Path(words[2]).stem]).exists() for name, words in steps.items()):
            sys.exit("A run failed or was interrupted: the same command goes on from there.")
    results = {
        "machine": describe_machine(),
        "student": json.loads((student / "results.json").read_text())["student"]["parameters"],
        "features": time_features(student, data),
        "tasks": collect(runs),
    }
    atomic_write_text(output, json.dumps(results, indent=1) + "\n")
    Console().print(terminal_table(cells(results), "Fine-tuning a small student"))


def time_features(student: Path, data: Path) -> dict[str, float]:
    """How long it takes to read all training questions and to make windows of 384 tokens of them, on two cores."""
    tokenizer = AutoTokenizer.from_pretrained(student)
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
    rows.append(_glue_row(runs, SMALL, APART, f"{TASKS[SMALL].name}, texts apart"))
    rows.append(_glue_row(runs, LARGE, LARGE, f"{TASKS[LARGE].name}, held out of train"))
    return rows + squad_rows(runs)


def squad_rows(runs: Path) -> list[dict[str, Any]]:
    """Exact match and F1, with the number of questions that they are of."""
    folders = ("squad", "squad-scratch")
    student, scratch = (json.loads((runs / folder / "eval_results.json").read_text()) for folder in folders)
    questions = len(json.loads((runs / "squad" / "predictions.json").read_text()))
    rows = []
    for name, score in {"exact_match": "exact match", "f1": "F1"}.items():
        value, from_scratch = (results[f"eval_{name}"] / 100 for results in (student, scratch))
        row = {"task": f"SQuAD v1.1, {questions:,} questions", "score": score, "majority": None}
        rows.append({**row, "scratch": from_scratch, "student": value, "seeds": [value]})
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
