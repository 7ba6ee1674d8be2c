"""A training run as one picture: losses, rates, every layer's distance from the teacher, and speed, over the steps."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..distillation.schedule_view import COLORS, DRAWING_WIDTH, FROZEN, INK, mark_stages
from ..distillation.trainer import TERMS
from .run_log import RunLog

# Colours that stay apart for colour-blind eyes (Okabe and Ito).
TERM_COLORS = dict(zip(TERMS, ("#0072B2", "#56B4E9", "#009E73", "#D55E00"), strict=True))
HEAD_COLORS = {"masked_lm_loss": "#CC79A7", "masked_lm_distillation": "#E69F00", "next_sentence_loss": "#7F7F7F"}


def draw(run: RunLog, path: Path) -> None:
    """Draws a run.

    Panels from above: the loss of each objective, for transfer the means over the layers whose losses count, held-out
    values as points; the learning rate of every place; every layer's weighted transfer loss (gray where it was not
    computed); and real tokens per second. Pre-training has the first, its rate, and the last.

    Args:
        run: The run.
        path: Where the picture goes; the ending says in which format.
    """
    layers = len(run.strategy.stages[0].layer_rates) if run.strategy else 0
    heights = [3.6, 0.17 * (layers + 2) + 0.8, 0.17 * layers + 0.8, 1.5] if layers else [3.6, 1.5, 1.5]
    figure = Figure(figsize=(DRAWING_WIDTH + 3.0, sum(heights) + 1.4), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    _draw_losses(run, panels[0])
    if layers:
        _draw_rates(run, panels[1])
        _draw_layers(run, panels[2])
    else:
        panels[1].plot(*run.series("learning_rate"), color=INK, linewidth=1.2)
        panels[1].set_ylabel("learning rate")
    panels[-1].plot(*run.series("tokens_per_second"), color=INK, linewidth=1.0)
    panels[-1].set_ylabel("tokens/s")
    panels[-1].set_ylim(bottom=0)
    panels[-1].set_xlabel("optimizer step")
    panels[-1].set_xlim(0, max(run.max_steps, 1))
    for axis in (panels[-1].xaxis, panels[-1].yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    if run.strategy:
        mark_stages(run.strategy, panels[0], *panels[1:])
    figure.suptitle(f"{run.name}: {run.steps_done:,} of {run.max_steps:,} steps")
    figure.savefig(path, dpi=130)


def _draw_losses(run: RunLog, axes: Axes) -> None:
    for term, color in TERM_COLORS.items():
        steps, values = _mean_over_layers(run, term)
        axes.plot(steps, values, color=color, linewidth=1.1, label=f"{term.replace('_', ' ')} (transfer)")
    for key, color in HEAD_COLORS.items():
        axes.plot(*run.series(key), color=color, linewidth=1.1, label=key.replace("_", " "))
        axes.plot(
            *run.series(f"eval_{key}", evaluations=True), "o", color=color, markersize=4, markeredgecolor="white"
        )
    if run.evaluations:
        axes.plot([], [], "o", color=INK, markersize=4, label="held out")
    axes.set_yscale("log")
    axes.set_ylabel("loss")
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    shown = [line for line in lines if len(line.get_xdata()) or line.get_label() == "held out"]
    axes.legend(handles=shown, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def _mean_over_layers(run: RunLog, term: str) -> tuple[np.ndarray, np.ndarray]:
    """A term of the layers that were logged, with a gap wherever other ones begin to count."""
    steps, values, before = [], [], None
    for line in run.training:
        layers = [name for name in line if name.startswith("layer_") and name.endswith(f"/{term}")]
        if not layers:
            continue
        if before is not None and layers != before:
            steps.append(line["step"])
            values.append(np.nan)
        before = layers
        steps.append(line["step"])
        values.append(np.mean([line[name] for name in layers]))
    return np.array(steps), np.array(values)


def _draw_rates(run: RunLog, axes: Axes) -> None:
    assert run.strategy is not None
    places = list(run.strategy.stages[0].rates)
    steps, _ = run.series(f"learning_rate/{places[0]}")
    rates = np.array([run.series(f"learning_rate/{place}")[1] for place in places])
    _heat_map(axes, steps, np.ma.masked_equal(rates, 0.0), places, "learning rate\n(gray: frozen)", log=False)


def _draw_layers(run: RunLog, axes: Axes) -> None:
    steps, losses, held_out = run.layer_losses()
    names = [f"layer {layer}" for layer in range(len(losses))]
    what = "held out" if held_out else "training"
    _heat_map(axes, steps, np.ma.masked_invalid(losses), names, f"weighted transfer\nloss, {what}", log=True)


def _heat_map(
    axes: Axes, steps: np.ndarray, values: np.ma.MaskedArray, names: list[str], label: str, log: bool
) -> None:
    """Rows of colour from the bottom up; a value covers the steps since the one before it."""
    edges = np.concatenate([[0], steps])
    positive = np.ma.masked_less_equal(values, 0.0)
    norm = LogNorm(positive.min(), positive.max()) if log and positive.count() else None
    colors = axes.pcolormesh(edges, np.arange(len(names) + 1), values, cmap=COLORS, norm=norm, rasterized=True)
    axes.set_facecolor(FROZEN)
    axes.set_yticks(np.arange(len(names)) + 0.5, [name.replace("_", " ") for name in names])
    axes.tick_params(axis="y", length=0, labelsize=7)
    axes.figure.colorbar(colors, ax=axes, label=label, pad=0.01)
