"""What came out on GLUE: one table for all tasks, a plot of the sweep, and the data of both."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console

from ..files import atomic_write, atomic_write_text
from ..tables import markdown_table, percent, terminal_table
from ..tasks.glue_scores import Score, glue_average, task_score
from ..tasks.glue_tasks import TASKS, GlueTask
from .sweep import Finished, best_point, by_point, median_score, read_finished

HEADINGS = ("task", "majority", "each seed", "median", "of which", "batch, rate, epochs", "runs")
SHORT = {"accuracy": "acc", "f1": "F1", "matthews_correlation": "MCC", "pearson": "Pearson", "spearmanr": "Spearman"}


def read_runs(folder: Path) -> dict[str, list[Finished]]:
    """The finished runs of a `finetune_glue` folder, by task key."""
    found = {}
    for task in TASKS.values():
        runs = [read_finished(path.parent) for path in sorted((folder / task.name).glob("*/results.json"))]
        found[task.key] = [run for run in runs if run is not None]
    return {key: runs for key, runs in found.items() if runs}


def write(folder: Path) -> None:
    """Writes `results.json`, `results.md` and, for more than one setting, `sweep.png`; prints the table.

    The scores are dev scores: where a setting was chosen by them, they are optimistic.
    """
    runs = read_runs(folder)
    results = summarize(runs)
    rows = table_rows(results)
    atomic_write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    atomic_write_text(folder / "results.md", "\n\n".join([markdown_table(rows), *remarks(results)]) + "\n")
    if any(len(list(by_point(group))) > 1 for group in runs.values()):
        plot(runs, folder / "sweep.png")
    console = Console()
    console.print(terminal_table(rows, "GLUE, dev"))
    for remark in remarks(results):
        console.print(remark)


def summarize(runs: dict[str, list[Finished]]) -> dict[str, Any]:
    """The results of each task's best setting, and their average, as JSON has them; scores are shares of 1."""
    tasks = {}
    for key, group in runs.items():
        best = best_point(group)
        batch_size, learning_rate, epochs = best[0].cell.point
        majority = best[0].details["majority"]
        tasks[key] = {
            "seeds": {run.cell.seed: run.score for run in best},
            "median": median_score(best),
            "metrics": _median_metrics(TASKS[key], best),
            "undefined": _reasons([run.details["scores"] for run in best]),
            "majority": task_score(TASKS[key], majority),
            "setting": {"batch_size": batch_size, "learning_rate": learning_rate, "epochs": epochs},
            "runs": len(group),
        }
    average, of = glue_average({key: median_score(best_point(group)) for key, group in runs.items()})
    return {"tasks": tasks, "average": average, "average_of": of}


def _median_metrics(task: GlueTask, best: list[Finished]) -> dict[str, Score]:
    """The median over seeds of each metric, with its split where there are several."""
    metrics: dict[str, Score] = {}
    for split in best[0].details["scores"]:
        for name in task.metrics:
            values = [run.details["scores"][split][name] for run in best]
            label = SHORT[name] if len(task.suffixes) == 1 else f"{SHORT[name]} {split.removeprefix('validation_')}"
            metrics[label] = None if None in values else median(values)
    return metrics


def _reasons(scores: list[dict[str, Any]]) -> list[str]:
    found = (metric for splits in scores for split in splits.values() for metric in split.get("undefined", {}).items())
    return list(dict.fromkeys(f"{name}: {reason}" for name, reason in found))


def table_rows(results: dict[str, Any]) -> list[list[str]]:
    """A row a task, in percent, and the average."""
    rows = [list(HEADINGS)]
    for key, task in results["tasks"].items():
        setting = task["setting"]
        rows.append(
            [
                TASKS[key].name,
                percent(task["majority"]),
                " ".join(percent(score) for score in task["seeds"].values()),
                percent(task["median"]),
                ", ".join(f"{name} {percent(value)}" for name, value in task["metrics"].items()),
                f"{setting['batch_size']}, {setting['learning_rate']:g}, {setting['epochs']:g}",
                str(task["runs"]),
            ]
        )
    return [*rows, ["average", "", "", percent(results["average"]), "", "", ""]]


def remarks(results: dict[str, Any]) -> list[str]:
    """What has to be said beneath the table."""
    undefined = [
        f"{TASKS[key].name}: {reason}." for key, task in results["tasks"].items() for reason in task["undefined"]
    ]
    return [f"Average: {results['average_of']}.", *undefined]


def plot(runs: dict[str, list[Finished]], path: Path) -> None:
    """Dev score against learning rate for each task; lines are medians over seeds, dots the seeds."""
    columns = min(len(runs), 4)
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(1 + 3.4 * columns, 1 + 2.8 * lines), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    styles = _styles(runs)
    for axes, (key, group) in zip(grid, runs.items(), strict=False):
        _plot_task(axes, TASKS[key], group, styles)
    for axes in grid[len(runs) :]:
        axes.axis("off")
    figure.suptitle("Dev scores: the median over seeds (line), each seed (dot), the best setting (ring)", fontsize=10)
    handles = [Line2D([], [], label=f"batch {batch}, {epochs:g} epochs", **style) for (batch, epochs), style in styles]
    handles.append(Line2D([], [], label="commonest class", color="0.6", linestyle="--"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=130)


Styles = list[tuple[tuple[int, float], dict[str, Any]]]


def _styles(runs: dict[str, list[Finished]]) -> Styles:
    """Of each line: the number of epochs as its colour, the batch size as its marker."""
    shapes = sorted({(run.cell.batch_size, run.cell.epochs) for group in runs.values() for run in group})
    batches, epochs = (sorted(set(values)) for values in zip(*shapes, strict=True))
    colors = dict(zip(epochs, colormaps["viridis"](np.linspace(0.1, 0.85, len(epochs))), strict=True))
    markers = {batch: "osD^vP*X"[index % 8] for index, batch in enumerate(batches)}
    return [((batch, count), {"color": colors[count], "marker": markers[batch]}) for batch, count in shapes]


def _plot_task(axes: Axes, task: GlueTask, group: list[Finished], styles: Styles) -> None:
    defined = [run for run in group if run.score is not None]
    for shape, style in styles:
        line = [run for run in defined if (run.cell.batch_size, run.cell.epochs) == shape]
        points = sorted((point[1], 100 * (median_score(seeds) or 0.0)) for point, seeds in by_point(line))
        medians = [[rate for rate, _ in points], [score for _, score in points]]
        axes.plot(*medians, color=style["color"], linewidth=1.5)
        rates, scores = [run.cell.learning_rate for run in line], [100 * (run.score or 0.0) for run in line]
        axes.plot(rates, scores, linestyle="", markersize=4, alpha=0.8, **style)
    best = best_point(group)
    score = median_score(best)
    if score is not None:
        ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": "#d55e00"}
        axes.plot([best[0].cell.learning_rate], [100 * score], **ring)
    majority = task_score(task, group[0].details["majority"])
    if majority is not None:
        axes.axhline(100 * majority, color="0.6", linestyle="--", linewidth=1)
    axes.set(title=task.name, xlabel="learning rate", xscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
