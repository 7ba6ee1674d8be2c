"""A run as one picture: losses, learning rates, each layer's distance from the teacher, and speed, over the steps."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from .run_log import Line, RunLog

# Of the figure and of the drawing area, and of a letter and a line of a stage's name, in inches.
_WIDTH = 12.0
_DRAWING_WIDTH = 9.4
_LETTER_WIDTH = 0.075
_LINE_HEIGHT = 0.12
_DPI = 130

_TRANSFER = {
    "feature_map": ("feature maps", "#1f83c4"),
    "mean": ("means", "#56b4e9"),
    "variance": ("variances", "#009e73"),
    "attention": ("attention", "#cc79a7"),
    "relation": ("relations", "#a6761d"),
}
_PRETRAINING = {
    "masked_lm_loss": ("masked LM", "#d55e00"),
    "masked_lm_distillation": ("distillation", "#e69f00"),
    "next_sentence_loss": ("next sentence", "#8c6bb1"),
}
_BESIDE: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.005, 1.02),
    "frameon": False,
    "borderaxespad": 0.0,
}
_OBJECTIVES = {**_TRANSFER, **_PRETRAINING}
_HELD_OUT: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4.5, "fillstyle": "none"}
_ACCURACIES = {
    "eval_masked_lm_accuracy": _PRETRAINING["masked_lm_loss"],
    "eval_next_sentence_accuracy": _PRETRAINING["next_sentence_loss"],
}


def _theme(ink: str, paper: str, grid: str) -> dict[Any, Any]:
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inks, ink),
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "legend.facecolor": paper,
        "grid.color": grid,
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


_LIGHT = _theme(ink="#333333", paper="#ffffff", grid="#e4e4e4")
_DARK = _theme(ink="#d0d0d0", paper="#181a1b", grid="#33373a")


class _Panel(NamedTuple):
    """A part of the picture: what draws it, and its height in inches."""

    draw: Callable[[Axes, RunLog], None]
    height: float


def draw(run: RunLog, dark: bool = False) -> bytes:
    """Draw a run.

    From top to bottom, as far as the log tells: each objective's loss, of the layers that learn by transfer at the
    time, with held-out values as points; held-out accuracies (pre-training); the learning rates; each layer's
    weighted transfer loss (distillation); tokens per second. Lines mark where stages begin.

    Args:
        run: What to draw.
        dark: For a dark page.

    Returns:
        A PNG file.
    """
    panels = _choose(run)
    with rc_context(_DARK if dark else _LIGHT):
        # A Figure without pyplot draws with Agg, needs no display and leaves no global state behind.
        figure = Figure(figsize=(_WIDTH, sum(height for _, height in panels) + 0.9), layout="constrained")
        column = figure.subplots(
            len(panels), sharex=True, squeeze=False, height_ratios=[height for _, height in panels]
        )[:, 0]
        for axes, panel in zip(column, panels, strict=True):
            panel.draw(axes, run)
            for stage in run.stages[1:]:
                axes.axvline(stage.start, color=rcParams["text.color"], linewidth=0.6, alpha=0.5)
        column[0].set_xlim(0, run.step)
        column[-1].set_xlabel("optimizer step")
        column[-1].xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        if len(run.stages) > 1:
            _name_stages(column[0], run)
        figure.suptitle(f"{run.title}: {run.step:,} of {run.total_steps:,} steps", fontsize=12)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def _choose(run: RunLog) -> list[_Panel]:
    """The panels for which the log has numbers."""
    last = run.training[-1]
    panels = [_Panel(_draw_losses, 3.4)]
    if not run.is_distillation and run.evaluations:
        panels.append(_Panel(_draw_accuracies, 1.8))
    places = len(run.rates(last))
    panels.append(_Panel(_draw_rates, _rows_height(places)) if places else _Panel(_draw_rate, 1.5))
    if run.layers:
        panels.append(_Panel(_draw_layers, _rows_height(run.layers)))
    if "tokens_per_second" in last:
        panels.append(_Panel(_draw_speed, 1.5))
    return panels


def _rows_height(rows: int) -> float:
    return 0.6 + max(0.12 * rows, min(0.28 * rows, 1.6), 0.9)


def _draw_losses(axes: Axes, run: RunLog) -> None:
    held_out = False
    for name, (label, color) in _OBJECTIVES.items():
        curves = [run.curve(name, stage) for stage in run.stages]
        points = _held_out(run, name)
        if not points and all(np.isnan(values).all() for _, values in curves):
            continue
        # A curve ends with its stage: NaN breaks the line.
        steps = np.concatenate([[*steps, np.nan] for steps, _ in curves])
        values = np.concatenate([[*values, np.nan] for _, values in curves])
        # A stage's only value makes no line, and gets a marker.
        known = ~np.isnan(values)
        lone = np.flatnonzero(known & ~np.roll(known, 1) & ~np.roll(known, -1)).tolist()
        axes.plot(steps, values, ".-", color=color, linewidth=1.3, markersize=4, markevery=lone, label=label)
        if points:
            axes.plot(*zip(*points, strict=True), color=color, clip_on=False, **_HELD_OUT)
            held_out = True
    if held_out:
        axes.plot([], [], color=rcParams["text.color"], **_HELD_OUT, label="held-out text")
    axes.set_yscale("log")
    axes.set_title("Loss of each objective" + (", mean of the layers of the stage" if run.layers else ""))
    axes.set_ylabel("loss, not weighted")
    _label_logarithms(axes.yaxis, *axes.get_ylim())
    axes.grid(axis="y")
    axes.legend(**_BESIDE)


def _held_out(run: RunLog, name: str) -> list[tuple[int, float]]:
    """Steps and values of an objective in the evaluations, of the stage that each evaluation ends or falls into."""
    points = []
    for line in run.evaluations:
        step = int(line["step"])
        stage = next(stage for stage in reversed(run.stages) if stage.start < max(step, 1))
        points.append((step, run.term(line, name, stage, prefix="eval_")))
    return [(step, value) for step, value in points if not np.isnan(value)]


def _draw_accuracies(axes: Axes, run: RunLog) -> None:
    for key, (label, color) in _ACCURACIES.items():
        points = [(line["step"], line[key]) for line in run.evaluations if key in line]
        axes.plot(
            *zip(*points, strict=True), color=color, label=label, clip_on=False, **{**_HELD_OUT, "linestyle": "-"}
        )
    axes.set_title("Accuracy on held-out text")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y")
    axes.legend(**_BESIDE)


def _draw_rate(axes: Axes, run: RunLog) -> None:
    steps, rates = zip(*((line["step"], line["learning_rate"]) for line in run.training), strict=True)
    axes.plot(steps, rates, color=_TRANSFER["feature_map"][1], linewidth=1.3)
    axes.set_title("Learning rate")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y")


def _draw_rates(axes: Axes, run: RunLog) -> None:
    # From the input up to the output, whatever the order of the log.
    places = ["embeddings", *(f"layer_{layer}" for layer in range(run.layers)), "heads"]
    rates = np.array([[run.rates(line).get(place, np.nan) for line in run.training] for place in places])
    edges = np.array([0, *(line["step"] for line in run.training)])
    norm = Normalize(0.0, np.nanmax(rates, initial=1e-12))
    learning = np.ma.masked_invalid(np.ma.masked_equal(rates, 0.0))
    _heat_map(axes, edges, learning, "YlGnBu", norm, "learning rate\n(gray: 0)")
    axes.set_title("Learning rate of each place")
    _label_rows(axes, [place.replace("_", " ") for place in places])


def _draw_layers(axes: Axes, run: RunLog) -> None:
    prefix, lines, edges = _layer_lines(run)
    losses = np.array([run.layer_losses(line, prefix) for line in lines]).T
    # What is 0 has no logarithm.
    losses = np.ma.masked_invalid(np.ma.masked_less_equal(losses, 0.0))
    least, most = (losses.min(), losses.max()) if losses.count() else (1.0, 1.0)
    norm = LogNorm(least, most if most > least else least * 1.01)
    _heat_map(axes, edges, losses, "viridis", norm, "weighted\ntransfer loss")
    where = "on held-out text" if prefix else "in training (gray: not computed)"
    known = "" if run.planned else ", not weighted"
    axes.set_title(f"Distance of each layer from the teacher's {where}{known}")
    _label_rows(axes, [f"layer {layer}" for layer in range(run.layers)])


def _layer_lines(run: RunLog) -> tuple[str, list[Line], np.ndarray]:
    """The lines that have the layers' losses, the prefix of their keys, and the step edges [lines + 1] between them.

    An evaluation is of one step: its column reaches halfway to the next one. A training line is of all steps since
    the last one.
    """
    if len(run.evaluations) < 2:
        return "", run.training, np.array([0, *(line["step"] for line in run.training)])
    steps = np.array([line["step"] for line in run.evaluations])
    return "eval_", run.evaluations, np.array([0.0, *(steps[1:] + steps[:-1]) / 2, steps[-1]])


def _draw_speed(axes: Axes, run: RunLog) -> None:
    lines = [line for line in run.training if "tokens_per_second" in line]
    speeds = [line["tokens_per_second"] for line in lines]
    axes.plot([line["step"] for line in lines], speeds, color=_TRANSFER["variance"][1], linewidth=1.0)
    axes.set_title("Throughput, without padding")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y")


def _heat_map(
    axes: Axes, edges: np.ndarray, values: np.ma.MaskedArray, colors: str, norm: Normalize, label: str
) -> None:
    """A row for each of values' [rows, columns], the first one at the bottom; the columns lie between edges."""
    mesh = axes.pcolormesh(edges, np.arange(values.shape[0] + 1), values, cmap=colors, norm=norm, rasterized=True)
    axes.set_facecolor(rcParams["grid.color"])
    assert axes.figure is not None
    # In the margin that the legends take anyway.
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.012, 0.0, 0.014, 1.0)), label=label)
    if isinstance(norm, LogNorm):
        _label_logarithms(bar.ax.yaxis, *bar.ax.get_ylim())
    else:
        bar.ax.yaxis.set_major_formatter("{x:g}")


def _label_logarithms(axis: Axis, low: float, high: float) -> None:
    """Plain numbers at the powers of ten; where there are few of them, between them as well."""
    axis.set_major_formatter("{x:g}")
    few = high / low < 200
    axis.set_minor_locator(LogLocator(subs=(2.0, 3.0, 5.0) if few else "auto"))
    axis.set_minor_formatter("{x:g}" if few else NullFormatter())


def _label_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.tick_params(axis="y", length=0, labelsize=9 if len(names) <= 12 else 6.5)


def _name_stages(axes: Axes, run: RunLog) -> None:
    """Write the stages' names above the axes, and its title above them; upright or not at all where room is little."""
    free = 0.0  # inches from the left, up to where names stand
    tallest = 0.0
    for stage in run.stages:
        begin, end = (min(step, run.step) / run.step * _DRAWING_WIDTH for step in (stage.start, stage.end))
        middle = (begin + end) / 2
        level = len(stage.name) * _LETTER_WIDTH < end - begin
        half = (len(stage.name) * _LETTER_WIDTH if level else _LINE_HEIGHT) / 2
        if middle - half < free - 1e-6:
            continue
        free = middle + half
        tallest = max(tallest, _LINE_HEIGHT if level else len(stage.name) * _LETTER_WIDTH * 7 / 9)
        axes.annotate(
            stage.name,
            (middle / _DRAWING_WIDTH, 1.0),
            xycoords="axes fraction",
            xytext=(0, 4),
            textcoords="offset points",
            rotation=0 if level else 90,
            fontsize=9 if level else 7,
            ha="center",
            va="bottom",
        )
    axes.set_title(axes.get_title(loc="left"), pad=10 + 72 * tallest)
