"""Profiles the operators of a graph and measures the machine's peak with one large matmul.

python benchmarks/operators.py < job.json > operators.json
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mobilebert_hf.deployment.benchmark.networks import OURS
from mobilebert_hf.deployment.benchmark.worker import text_inputs
from tracing import PEAK_SIZE, RUNS, TRACERS, Event


def main() -> None:
    """Reads a job from standard input and writes the times of operators to standard output."""
    json.dump(measure(json.load(sys.stdin)), sys.stdout)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Profiles the student.

    Args:
        job: `format`; `precision`; `threads`; `graphs` with the student's path; `shapes`, of which the first is used.

    Returns:
        `operators`: see `summarize`; `peak_gflops`: of one large matmul.
    """
    tracer, threads = TRACERS[job["format"]], job["threads"]
    events = tracer.trace(Path(job["graphs"][OURS]), text_inputs(*job["shapes"][0]), threads)
    with TemporaryDirectory() as folder:
        peak = tracer.trace(*tracer.write_peak(Path(folder), job["precision"] == "int8"), threads)
    fastest = min(event.milliseconds for event in peak if event.widths)
    return {"operators": summarize(events), "peak_gflops": 2 * PEAK_SIZE**3 / fastest / 1e6}


def summarize(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Groups the calls of `RUNS` runs by operator and widths.

    Returns:
        Rows by descending time: `operator`; `widths`, input and output width of matmuls; `count`, calls per run; `ms`,
        median time per run of all calls; `flops` of all calls.
    """
    kinds: dict[tuple, list[Event]] = defaultdict(list)
    for event in events:
        kinds[event.operator, *event.widths].append(event)
    rows = []
    for (operator, *widths), found in kinds.items():
        by_run = np.array([event.milliseconds for event in found]).reshape(RUNS, -1).sum(axis=1)
        row = {"operator": operator, "widths": widths, "count": len(found) // RUNS, "ms": median(by_run.tolist())}
        rows.append({**row, "flops": sum(event.flops for event in found) // RUNS})
    return sorted(rows, key=lambda row: -row["ms"])


if __name__ == "__main__":
    main()
