"""The strategies of transfer from a sentence encoder, at equal compute.

    python benchmarks/strategies.py --teacher sentence-transformers/all-MiniLM-L6-v2 --corpus my-text/

Each strategy starts from the same student, reads the same corpus, and gets the same number of floating-point
operations in the matrix products of teacher and student: a step of transfer of the lowest layers costs a fraction of
one of distillation, so progressive transfer takes more steps. The strategies with several stages give half of their
operations to transfer and half to distillation. Results go to benchmarks/strategies/results.json, the picture beside.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import typer
from rich.console import Console

from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.distillation import DistillationArguments, StudentArguments, distill, student_shape
from mobilebert_hf.distillation.costs import step_flops
from mobilebert_hf.distillation.strategies import Strategy
from mobilebert_hf.distillation.teacher_files import load_teacher
from mobilebert_hf.distillation.trainer import NOMINAL_STEP
from mobilebert_hf.files import atomic_write, atomic_write_text
from mobilebert_hf.machine import describe_machine
from mobilebert_hf.models import MobileBertModel
from mobilebert_hf.tables import terminal_table

RESULTS = Path(__file__).parent / "strategies" / "results.json"
RUNS: dict[str, dict[str, Any]] = {
    "auxiliary": {"strategy": "auxiliary"},
    "auxiliary, relations too": {"strategy": "auxiliary", "relation_weight": 1.0},
    "joint": {"strategy": "joint"},
    "parallel": {"strategy": "parallel"},
    "progressive": {"strategy": "progressive"},
}


def main(
    teacher: Annotated[str, typer.Option(help="Sentence encoder: Hub id or folder.")],
    corpus: Annotated[list[str], typer.Option(help="File, folder, glob, or Hub data set; can be repeated.")],
    output: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/strategies"),
    steps: Annotated[int, typer.Option(help="Of the auxiliary strategy, whose operations all get.")] = 300,
    task_data: Annotated[str | None, typer.Option(help="GLUE's folder, for STS-B.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Strategies to run now; the others' results are kept.")
    ] = None,
) -> None:
    """Runs the strategies one after the other, and draws what each has reached."""
    task = {"task": "stsb", "task_data": task_data} if task_data else {}
    student = StudentArguments(teacher=teacher, objective="pooled", size="small", **task)
    cost = costs_of(student)
    budget = cost(arguments_for("auxiliary", output, steps))
    for name in only or RUNS:
        arguments = arguments_for(name, output / name, steps)
        fit(arguments, cost, budget)
        distill(
            student, PretrainingDataArguments(corpus=corpus, max_seq_length=64, validation_fraction=0.005), arguments
        )
    results: dict[str, Any] = {"machine": describe_machine(), "steps": steps, "strategies": {}}
    for name in RUNS:
        if (output / name / "results.json").is_file():
            results["strategies"][name] = read(output / name)
    RESULTS.parent.mkdir(exist_ok=True)
    atomic_write_text(RESULTS, json.dumps(results, indent=2))
    draw(results)
    Console().print(terminal_table(cells(results), "equal compute"))


def arguments_for(name: str, output: Path, steps: int) -> DistillationArguments:
    """The recipe's arguments, on the CPU."""
    return DistillationArguments(
        output_dir=str(output),
        **RUNS[name],
        transfer_steps=0 if RUNS[name]["strategy"] == "auxiliary" else steps,
        distillation_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=5e-4,  # for a short run
        use_cpu=True,
        bf16=True,
        eval_strategy="steps",
        eval_steps=0.1,
        save_strategy="no",
        logging_steps=10,
        report_to="none",
    )


def costs_of(student: StudentArguments) -> Any:
    """A function from arguments to the operations of their run, for a nominal batch."""
    network = load_teacher(student).network
    shape = student_shape(network, student.size, student.layers)
    model = MobileBertModel(shape.config, add_pooling_layer=False)

    def work(strategy: Strategy, until: int) -> float:
        total = 0.0
        for stage, begin in zip(strategy.stages, strategy.boundaries, strict=True):
            cost = sum(step_flops(stage, model, network, **NOMINAL_STEP, mapping=shape.mapping))
            total += cost * min(max(until - begin, 0), stage.steps)
        return total

    def cost(arguments: DistillationArguments, until: int | None = None) -> float:
        strategy = arguments.build_strategy(len(shape.mapping))
        return work(strategy, strategy.steps if until is None else until)

    return cost


def fit(arguments: DistillationArguments, cost: Any, budget: float) -> None:
    """Sets the steps, so that transfer and distillation take half of the budget each, or distillation all."""
    distillation = arguments.distillation_steps
    if arguments.strategy == "auxiliary":
        arguments.distillation_steps = round(distillation * budget / cost(arguments))
        return
    transfer = arguments.transfer_steps
    of_transfer = cost(arguments, until=transfer)
    arguments.transfer_steps = round(transfer * budget / 2 / of_transfer)
    of_distillation = cost(arguments) - cost(arguments, until=arguments.transfer_steps)
    arguments.distillation_steps = round(distillation * budget / 2 / of_distillation)


def read(folder: Path) -> dict[str, Any]:
    """What a run has reached, and on the way."""
    results = json.loads((folder / "results.json").read_text())
    state = json.loads((folder / "trainer_state.json").read_text())
    evaluations = [line for line in state["log_history"] if "eval_pooled_similarity" in line]
    return {
        "steps": results["steps"],
        "minutes": results["minutes"],
        "task": results["student"].get("task"),
        "evaluation": results["evaluation"],
        "course": [[line["step"], line["eval_pooled_similarity"]] for line in evaluations],
    }


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The rows of the table."""
    rows = [["strategy", "steps", "cosine of the layers", "of the last", "of the pooled outputs", "STS-B, Spearman"]]
    for name, run in results["strategies"].items():
        measured = run["evaluation"]
        layers = [value for key, value in measured.items() if key.startswith("eval_layer_") and "similarity" in key]
        score = "" if run["task"] is None else f"{100 * run['task']:.1f}"
        rows.append(
            [
                name,
                f"{run['steps']:,}",
                f"{sum(layers) / len(layers):.3f}",
                f"{layers[-1]:.3f}",
                f"{measured['eval_pooled_similarity']:.3f}",
                score,
            ]
        )
    return rows


def draw(results: dict[str, Any]) -> None:
    """The pooled outputs' cosine on held-out text, over the course of each run."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, run in results["strategies"].items():
        steps, values = zip(*run["course"], strict=True)
        axes.plot([step / run["steps"] for step in steps], values, label=name, marker="o", markersize=3)
    axes.set(xlabel="share of the steps", ylabel="cosine of pooled outputs, held out")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic_write(RESULTS.with_suffix(".png")) as aside:
        figure.savefig(aside, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
