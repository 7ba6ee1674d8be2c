"""Answers to GLUE's test splits, in the files and the zip archive that the benchmark's server takes."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import write_aside, written_aside
from .glue_tasks import TASKS, GlueTask


def write_predictions(task: GlueTask, name: str, predictions: Sequence[float] | np.ndarray, folder: Path) -> Path:
    """Writes the answers to a test split as `folder/name.tsv`, with a line `index<TAB>prediction` first.

    Args:
        task: The task.
        name: What the server calls the split, a key of `task.test_rows`.
        predictions: [n], in the order of the test file: classes, or scores for STS-B.
        folder: Is made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{index}\t{_render(task, value)}" for index, value in enumerate(predictions)]
    path = folder / f"{name}.tsv"
    write_aside(path, "\n".join(["index\tprediction", *lines]) + "\n")
    return path


def _render(task: GlueTask, value: float) -> str:
    if task.regression:
        return f"{min(max(float(value), 0.0), 5.0):.3f}"
    return task.labels[int(value)] if task.named else str(int(value))


def write_submission(predictions: Path, archive: Path) -> str:
    """Packs the files of all tasks, which lie flat in the archive; an incomplete set is not packed.

    Args:
        predictions: Folder of `write_predictions`.
        archive: The zip file to write.

    Returns:
        What was done, or what is missing or has not as many rows as the server's data.
    """
    problems = []
    for name, rows in ((name, rows) for task in TASKS.values() for name, rows in task.test_rows.items()):
        path = predictions / f"{name}.tsv"
        found = len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.is_file() else None
        if found is None:
            problems.append(f"{name}.tsv is missing")
        elif found != rows:
            problems.append(f"{name}.tsv has {found:,} rows, not {rows:,}")
    if problems:
        return f"{archive} is not written, because the server takes all tasks at once: {'; '.join(problems)}."
    with written_aside(archive) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as file:
        for task in TASKS.values():
            for name in task.test_rows:
                file.write(predictions / f"{name}.tsv", f"{name}.tsv")
    return f"{archive} is ready for gluebenchmark.com."
