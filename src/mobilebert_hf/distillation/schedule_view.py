"""A strategy of knowledge transfer as a table and as a plot, from its stages and without training."""

from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich import box
from rich.table import Table

from ..files import atomic_write
from .stages import Stage, Strategy

# How many steps of a strategy the picture shows at most: about one for each pixel of its width.
_SAMPLES = 1500
# Width of the drawing area and of a letter of a stage's name, in inches: decides whether the name fits lengthwise.
DRAWING_WIDTH = 9.0
_LETTER_WIDTH = 0.08
COLORS = "YlGnBu"
FROZEN = "#ececec"
INK = "#333333"


def describe(strategy: Strategy) -> Table:
    """Return a table of a strategy: for each stage its steps, its depth, the losses that count and what learns.

    Args:
        strategy ([`Strategy`]): what to describe.

    Returns:
        `rich.table.Table`: a row for each stage. Steps and layers count from 0 and include the last one named;
            the factors are of the base learning rate, before the stage's curve.
    """
    stages = len(strategy.stages)
    table = Table(
        title=f"{strategy.name}: {strategy.steps:,} steps in {stages} stage{'s' if stages > 1 else ''}",
        caption="numbers under losses and learns: layers, counted from 0\n"
        "x: factor of the base learning rate; the rest is frozen\n"
        "FMT, AT: feature-map, attention transfer\n"
        "MLM: masked LM with distillation; NSP: next sentence",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for header in ("stage", "steps", "depth", "losses", "learns", "curve", "warm-up"):
        table.add_column(header, justify="right" if header in ("steps", "depth", "warm-up") else "left")
    for stage, start in zip(strategy.stages, strategy.boundaries, strict=True):
        table.add_row(
            stage.name,
            f"{start:,} - {start + stage.steps - 1:,}",
            str(stage.depth),
            _losses(stage),
            _learning(stage),
            stage.curve,
            f"{stage.warmup:,}" if stage.warmup else "",
        )
    return table


def plot(strategy: Strategy, path: str | Path, base_learning_rate: float) -> Path:
    """Draw the learning rate of every parameter group over the steps of a strategy.

    Above, the highest rate at each step, with the stages' names; below, a row for each parameter group, from the
    embeddings at the bottom to the heads at the top, colored by its learning rate, and light gray where it is frozen.

    Args:
        strategy ([`Strategy`]): what to draw.
        path (`str` or `Path`): where to write the picture; the ending says in which format, such as .png or .svg.
        base_learning_rate (`float`): what the strategy's factors multiply.

    Returns:
        `Path`: the path of the picture.
    """
    edges, rates = _sample(strategy, base_learning_rate)
    groups = list(strategy.stages[0].lr_scales)
    # A Figure without pyplot draws with Agg, needs no display and leaves no global state behind.
    figure = Figure(figsize=(DRAWING_WIDTH + 2.0, 3.2 + 0.2 * len(groups)), layout="constrained")
    top, rows = figure.subplots(2, sharex=True, height_ratios=(1.4, 0.2 * len(groups) + 0.6))
    top.stairs(np.nan_to_num(rates).max(axis=0), edges, color=INK, linewidth=1.2)
    top.set_ylabel("highest\nlearning rate")
    top.set_ylim(bottom=0.0)
    top.spines[["top", "right"]].set_visible(False)
    colors = rows.pcolormesh(
        edges,
        np.arange(len(groups) + 1),
        np.ma.masked_invalid(rates),
        cmap=COLORS,
        norm=Normalize(0.0, np.nanmax(rates)),
        rasterized=True,
    )
    rows.set_facecolor(FROZEN)
    rows.set_yticks(np.arange(len(groups)) + 0.5, [group.replace("_", " ") for group in groups])
    rows.tick_params(axis="y", length=0, labelsize=8)
    rows.set_xlabel("optimizer step")
    rows.set_xlim(edges[0], edges[-1])
    rows.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    mark_stages(strategy, top, rows)
    bar = figure.colorbar(colors, ax=(top, rows), label="learning rate (light gray: frozen)", pad=0.01)
    for axis in (top.yaxis, bar.ax.yaxis):
        axis.set_major_formatter("{x:g}")
    figure.suptitle(f"{strategy.name} knowledge transfer, {strategy.steps:,} steps")
    path = Path(path)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150)
    return path


def _losses(stage: Stage) -> str:
    """Name the losses of a stage."""
    losses = []
    if stage.transfer_layers:
        losses.append(f"FMT + AT {_layers(stage.transfer_layers)}")
    if stage.use_distillation_loss:
        losses.append("MLM + NSP")
    return ", ".join(losses)


def _learning(stage: Stage) -> str:
    """Name what learns in a stage, with its factor; neighbouring layers of the same factor together."""
    if len(set(stage.lr_scales.values())) == 1:
        return f"all x {stage.head_lr_scale:g}"
    parts = [("embeddings", stage.embedding_lr_scale)]
    for scale, group in groupby(range(len(stage.layer_lr_scales)), key=stage.layer_lr_scales.__getitem__):
        parts.append((_layers(tuple(group)), scale))
    parts.append(("heads", stage.head_lr_scale))
    return ", ".join(f"{groups} x {scale:g}" for groups, scale in parts if scale)


def _layers(layers: tuple[int, ...]) -> str:
    """Name layers, neighbouring ones by the first and the last."""
    if len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _sample(strategy: Strategy, base_learning_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Return step edges [n + 1] and learning rates [groups, n] between them, NaN where a group is frozen."""
    edges: list[int] = []
    columns: list[list[float]] = []
    for stage, start in zip(strategy.stages, strategy.boundaries, strict=True):
        stride = max(1, min(stage.steps // 50, strategy.steps // _SAMPLES))
        for step in range(0, stage.steps, stride):
            factor = stage.curve_factor(step) * base_learning_rate
            edges.append(start + step)
            columns.append([scale * factor if scale else np.nan for scale in stage.lr_scales.values()])
    return np.array([*edges, strategy.steps]), np.array(columns).T


def mark_stages(strategy: Strategy, top: Axes, *others: Axes) -> None:
    """Draw a line at each stage's beginning, and write the stages' names above the top axes.

    The names stand upright where there is little room.

    Args:
        strategy ([`Strategy`]): whose stages.
        top (`Axes`): as wide as `DRAWING_WIDTH`, with steps on the x axis.
        others (`Axes`): those that get the lines too.
    """
    for stage, start in zip(strategy.stages, strategy.boundaries, strict=True):
        if start:
            for axes in (top, *others):
                axes.axvline(start, color=INK, linewidth=0.6, alpha=0.6)
        fits = len(stage.name) * _LETTER_WIDTH < stage.steps / strategy.steps * DRAWING_WIDTH
        top.annotate(
            stage.name,
            (start + stage.steps / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            rotation=0 if fits else 90,
            fontsize=9 if fits else 7,
            ha="center",
            va="bottom",
            color=INK,
        )
