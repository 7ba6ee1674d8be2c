"""Writes predictions of GLUE's test splits as the files and zip archive for the benchmark's server."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import atomic_write, atomic_write_text
from .glue_tasks import TASKS, GlueTask


def write_predictions(task: GlueTask, name: str, predictions: Sequence[float] | np.ndarray, folder: Path) -> Path:
    """Writes the predictions of a test split as `folder/name.tsv`, with the header `index<TAB>prediction`.

    Args:
        task: The task.
        name: The server's name of the split, a key of `task.test_rows`.
        predictions: [n], class indices, or scores for STS-B, in the order of the test file.
        folder: Output folder; created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{index}\t{_render(task, value)}" for index, value in enumerate(predictions)]
    path = folder / f"{name}.tsv"
    atomic_write_text(path, "\n".join(["index\tprediction", *lines]) + "\n")
    return path


def _render(task: GlueTask, value: float) -> str:
    if task.regression:
        return f"{min(max(float(value), 0.0), 5.0):.3f}"
    return task.labels[int(value)] if task.named else str(int(value))


def write_submission(predictions: Path, archive: Path) -> str:
    """Writes the prediction files of all tasks to a zip archive, if they are complete.

    Args:
        predictions: Folder written by `write_predictions`.
        archive: The zip file to write.

    Returns:
        A message: that the archive was written, or which files are missing or have a wrong number of rows.
    """
    problems = []
    for name, rows in ((name, rows) for task in TASKS.values() for name, rows in task.test_rows.items()):
        path = predictions / f"{name}.tsv"
        found = len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.is_file() else None
        if found is None:
            problems.append(f"{name}.tsv is missing")
        elif found != rows:
            problems.append(f"{name}.tsv has {found:,} rows, expected {rows:,}")
    if problems:
        return f"{archive} is not written, because the server needs all tasks: {'; '.join(problems)}."
    with atomic_write(archive) as staging, zipfile.ZipFile(staging, "w", zipfile.ZIP_DEFLATED) as file:
        for task in TASKS.values():
            for name in task.test_rows:
                file.write(predictions / f"{name}.tsv", f"{name}.tsv")
    return f"{archive} is ready for gluebenchmark.com."
