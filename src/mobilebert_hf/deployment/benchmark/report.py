"""Tables and plot of the benchmark's results. The first row of `*_cells` is the heading."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from ...files import atomic_write
from ...tables import terminal_table
from .mixed import padded_tokens
from .networks import BERT, OURS, STOCK

HEADINGS = ("runtime", "precision", "network", "median", "p90", "texts/s", f"vs. {BERT}", "file size", "peak memory")
FILLS = {"float32": "full", "bfloat16": "left", "int8": "none"}
COLORS = ("#0072b2", "#56b4e9", "#e69f00", "#999999")


def cells(results: dict[str, Any], rows: int, tokens: int) -> list[list[str]]:
    """Returns the results of one shape. Speedups are over BERT_BASE with the same runtime and precision."""
    chosen = [row for row in results["rows"] if (row["rows"], row["tokens"]) == (rows, tokens)]
    bert = {(row["runtime"], row["precision"]): row["median_ms"] for row in chosen if row["network"] == BERT}
    lines = [
        [
            *(row["runtime"], row["precision"], row["network"]),
            *(f"{row['median_ms']:.1f} ms", f"{row['p90_ms']:.1f} ms", f"{row['texts_per_second']:,.0f}"),
            f"{bert[row['runtime'], row['precision']] / row['median_ms']:.2f}x",
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f} MB",
            f"{row['peak_memory'] / 1e6:,.0f} MB",
        ]
        for row in chosen
    ]
    return [list(HEADINGS), *lines]


def detail_cells(results: dict[str, Any], runtime: str, precision: str) -> list[list[str]]:
    """Returns the profile of the student in a runtime."""
    measured = results["details"][runtime][precision]
    return _operator_cells(measured) if "operators" in measured else _part_cells(measured)


def limit_cells(results: dict[str, Any]) -> list[list[str]]:
    """Returns measured and possible speedups, a row for each runtime and precision.

    "matmuls only" is the speedup if nothing but the student's matmuls took time; "matmuls at peak" if they ran at the
    machine's peak and the rest took as long as now. The last row is the ratio of FLOPs.
    """
    first = results["rows"][0]
    medians = _medians(results, first["rows"], first["tokens"])
    lines = []
    for runtime, precisions in results["details"].items():
        for precision, measured in precisions.items():
            ours, stock, bert = (medians[runtime, precision, name] for name in (OURS, STOCK, BERT))
            matmuls, at_peak = _limits(measured)
            speeds = stock / ours, stock / ours / matmuls, bert / ours, bert / ours / matmuls, bert / ours / at_peak
            lines.append([f"{runtime}, {precision}", *(f"{speed:.2f}x" for speed in speeds)])
    flops = {name: network["flops"][str(first["tokens"])] for name, network in results["networks"].items()}
    fewer = [f"{flops[name] / flops[OURS]:.2f}x" for name in (STOCK, BERT)]
    limits = [f"vs. {BERT}, matmuls only", f"vs. {BERT}, matmuls at peak"]
    heading = ["", "vs. stock", "vs. stock, matmuls only", f"vs. {BERT}", *limits]
    return [heading, *lines, ["FLOPs", fewer[0], "", fewer[1], "", ""]]


def _limits(measured: dict[str, Any]) -> tuple[float, float]:
    """Returns two shares of the time: that of the matmuls, and what would remain with all of them at peak."""
    rows = measured.get("operators") or measured["parts"]
    total = sum(row["ms"] for row in rows) if "operators" in measured else rows[-1]["ms"]
    matmuls = [row for row in rows if row["flops"]]
    spent = sum(row["ms"] for row in matmuls)
    needed = sum(row["flops"] for row in matmuls) / measured["peak_gflops"] / 1e6
    return spent / total, 1 - (spent - needed) / total


def _operator_cells(measured: dict[str, Any]) -> list[list[str]]:
    """Operators without FLOPs that take less than 1 % of the time are summed up in the last row."""
    total = sum(row["ms"] for row in measured["operators"])
    lines, rest = [], 0.0
    for row in measured["operators"]:
        if row["ms"] < total / 100 and not row["flops"]:
            rest += row["ms"]
            continue
        gflops = row["flops"] / row["ms"] / 1e6 if row["ms"] else 0.0  # profilers round to microseconds
        lines.append(
            [
                " ".join([row["operator"], " to ".join(map(str, row["widths"]))]).strip(),
                str(row["count"]),
                f"{1e3 * row['ms'] / row['count']:.0f} us",
                f"{100 * row['ms'] / total:.0f} %",
                f"{100 * gflops / measured['peak_gflops']:.0f} %" if gflops else "",
            ]
        )
    heading = ["operator, widths", "calls", "per call", "share of time", "share of peak"]
    return [heading, *lines, ["all others", "", "", f"{100 * rest / total:.0f} %", ""]]


def _part_cells(measured: dict[str, Any]) -> list[list[str]]:
    *parts, whole = measured["parts"]
    rest = whole["ms"] - sum(part["ms"] for part in parts)
    lines = [
        [
            part["part"],
            f"{part['ms']:.1f} ms",
            f"{100 * part['ms'] / whole['ms']:.0f} %",
            f"{100 * part['flops'] / part['ms'] / 1e6 / measured['peak_gflops']:.0f} %",
        ]
        for part in parts
    ]
    others = ["all others", f"{rest:.1f} ms", f"{100 * rest / whole['ms']:.0f} %", ""]
    return [["part of all layers", "time", "share of time", "share of peak"], *lines, others]


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """Yields the tables of the first shape, of mixed lengths if measured, and of the profiles."""
    first = results["rows"][0]
    title = f"{first['rows']} x {first['tokens']} tokens, {results['threads']} threads, {results['machine']['cpu']}"
    yield terminal_table(cells(results, first["rows"], first["tokens"]), title)
    if lengths := results["mixed"]["lengths"]:
        title = f"{len(lengths)} texts of {min(lengths)} to {max(lengths)} tokens"
        yield terminal_table(mixed_cells(results), title)
    for runtime, precisions in results["details"].items():
        for precision, measured in precisions.items():
            title = f"{runtime}, {precision}, {first['tokens']} tokens; peak {measured['peak_gflops']:.0f} GFLOPS"
            yield terminal_table(detail_cells(results, runtime, precision), title)
    if results["details"]:
        yield terminal_table(limit_cells(results), "Measured and possible speedups")


def summary_cells(results: dict[str, Any], rows: int, tokens: int) -> list[list[str]]:
    """Returns the medians of one shape, a row for each runtime and precision."""
    medians = _medians(results, rows, tokens)
    lines = []
    for runtime, precision in dict.fromkeys(key[:2] for key in medians):
        ours, stock, bert = (medians[runtime, precision, name] for name in (OURS, STOCK, BERT))
        times = [f"{value:.1f} ms" for value in (bert, stock, ours)]
        lines.append([f"{runtime}, {precision}", *times, f"{stock / ours:.2f}x", f"{bert / ours:.1f}x"])
    return [["", BERT, STOCK, OURS, "vs. stock", f"vs. {BERT}"], *lines]


def _medians(results: dict[str, Any], rows: int, tokens: int) -> dict[tuple[str, str, str], float]:
    """Milliseconds by runtime, precision and network."""
    return {
        (row["runtime"], row["precision"], row["network"]): row["median_ms"]
        for row in results["rows"]
        if (row["rows"], row["tokens"]) == (rows, tokens)
    }


def mixed_cells(results: dict[str, Any]) -> list[list[str]]:
    """Returns the results of mixed lengths. Speedups are over stock MobileBERT with padding.

    The last row is the speedup without padding if all tokens took the same time.
    """
    rows, lengths = results["mixed"]["rows"], results["mixed"]["lengths"]
    stock = {(row["runtime"], row["precision"]): row for row in rows if row["way"] == f"{STOCK}, padded"}
    lines = [
        [
            *(row["runtime"], row["precision"], row["way"], f"{1e3 * len(lengths) / row['median_ms']:.1f}"),
            f"{stock[row['runtime'], row['precision']]['median_ms'] / row['median_ms']:.2f}x",
        ]
        for row in rows
    ]
    fewer = ["all", "", "tokens, unpadded", "", f"{padded_tokens(lengths) / sum(lengths):.2f}x"]
    return [["runtime", "precision", "network, batching", "texts/s", "vs. stock, padded"], *lines, fewer]


def plot(results: dict[str, Any], path: Path) -> None:
    """Plots latency over file size for the first shape, a point for each network, runtime and precision."""
    first = results["rows"][0]
    shape = first["rows"], first["tokens"]
    rows = [row for row in results["rows"] if (row["rows"], row["tokens"]) == shape and row["bytes"] is not None]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    for row in rows:
        color = COLORS[networks.index(row["network"]) % len(COLORS)]
        axes.plot(
            [row["bytes"] / 1e6],
            [row["median_ms"]],
            marker="osD^"[runtimes.index(row["runtime"]) % 4],
            color=color,
            fillstyle=FILLS[row["precision"]],
            markerfacecoloralt="none",
            markersize=9 if row["network"] == OURS else 7,
            linestyle="",
        )
    for index, name in enumerate(networks):
        axes.plot([], [], color=COLORS[index % len(COLORS)], marker="o", linestyle="", label=name)
    for index, name in enumerate(runtimes):
        axes.plot([], [], color="0.3", marker="osD^"[index % 4], linestyle="", label=name)
    for precision in sorted({row["precision"] for row in rows}, key=list(FILLS).index):
        style: dict[str, Any] = {"fillstyle": FILLS[precision], "markerfacecoloralt": "none", "linestyle": ""}
        axes.plot([], [], color="0.3", marker="o", label=precision, **style)
    axes.set(xscale="log", yscale="log", xlabel="file, MB", ylabel=f"median latency, ms ({shape[0]} x {shape[1]})")
    axes.set_title(f"Latency and file size; lower left is better ({results['machine']['cpu']})", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=8)
    axes.grid(which="both", color="0.94")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    with atomic_write(path) as staging:
        figure.savefig(staging, dpi=130)
