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


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """Yields the tables of the first shape, and of mixed lengths if measured."""
    first = results["rows"][0]
    title = f"{first['rows']} x {first['tokens']} tokens, {results['threads']} threads, {results['machine']['cpu']}"
    yield terminal_table(cells(results, first["rows"], first["tokens"]), title)
    if lengths := results["mixed"]["lengths"]:
        title = f"{len(lengths)} texts of {min(lengths)} to {max(lengths)} tokens"
        yield terminal_table(mixed_cells(results), title)


def summary_cells(results: dict[str, Any], rows: int, tokens: int) -> list[list[str]]:
    """Returns the medians of one shape, a row for each runtime and precision."""
    medians = medians_of(results, rows, tokens)
    lines = []
    for runtime, precision in dict.fromkeys(key[:2] for key in medians):
        ours, stock, bert = (medians[runtime, precision, name] for name in (OURS, STOCK, BERT))
        times = [f"{value:.1f} ms" for value in (bert, stock, ours)]
        lines.append([f"{runtime}, {precision}", *times, f"{stock / ours:.2f}x", f"{bert / ours:.1f}x"])
    return [["", BERT, STOCK, OURS, "vs. stock", f"vs. {BERT}"], *lines]


def medians_of(results: dict[str, Any], rows: int, tokens: int) -> dict[tuple[str, str, str], float]:
    """Returns the milliseconds of one shape by runtime, precision and network."""
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
