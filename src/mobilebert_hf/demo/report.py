"""The demo's results: a table and a plot of the losses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ..files import atomic_write


@dataclass
class Result:
    """Results of one model: accuracies on held-out text are fractions, latency is that of one forward pass."""

    name: str
    steps: int
    parameters: int
    bytes_on_disk: int
    masked_lm_accuracy: float
    task_accuracy: float
    latency_ms: float


HEADINGS = ("model", "steps", "params", "on disk", "MLM acc.", "task acc.", "latency")


def cells(result: Result) -> list[str]:
    """Returns the formatted row of a model, in the order of `HEADINGS`."""
    return [
        result.name,
        f"{result.steps:,}",
        f"{result.parameters / 1e6:.2f} M",
        f"{result.bytes_on_disk / 2**20:.1f} MiB",
        f"{result.masked_lm_accuracy:.1%}",
        f"{result.task_accuracy:.1%}",
        f"{result.latency_ms:.1f} ms",
    ]


def table_rows(results: list[Result]) -> list[list[str]]:
    """Returns the table of all models, heading first."""
    return [list(HEADINGS), *map(cells, results)]


def plot_losses(histories: dict[str, list[dict[str, Any]]], boundaries: tuple[int, ...], path: Path) -> None:
    """Plots the masked-LM loss of every model and the feature-map loss of each student layer.

    Args:
        histories: `trainer.state.log_history` by model name. That of the distilled student has
            `layer_<i>/feature_map`.
        boundaries: First steps of the student's stages.
        path: PNG file to write.
    """
    figure, (masked_lm, transfer) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    for name, history in histories.items():
        _plot(masked_lm, history, "masked_lm_loss", name)
    masked_lm.set(title="Training masked-LM loss", xlabel="step", ylabel="nats per masked token")
    masked_lm.legend()

    for history in histories.values():
        layers = sorted({key for line in history for key in line if key.endswith("/feature_map") and key[0] == "l"})
        for key in layers:
            _plot(transfer, history, key, key.split("/")[0].replace("_", " "))
    for step in boundaries[1:]:
        transfer.axvline(step, color="0.7", linewidth=0.8)
    transfer.set(
        title="Progressive transfer, layer by layer",
        xlabel="step",
        ylabel="normalized feature-map loss",
        ylim=(0, None),
    )
    transfer.legend()
    for axes in (masked_lm, transfer):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
    with atomic_write(path) as staging:
        figure.savefig(staging, dpi=130)
    plt.close(figure)


def _plot(axes: Any, history: list[dict[str, Any]], key: str, label: str) -> None:
    points = [(line["step"], float(line[key])) for line in history if key in line]
    axes.plot(*zip(*points, strict=True), label=label)
