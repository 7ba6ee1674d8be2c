"""Metrics of downstream tasks, as `evaluate` modules that load offline."""

from functools import cache
from pathlib import Path
from typing import Any

import evaluate
from numpy.typing import ArrayLike

from ..glue_tasks import GlueTask


def load_metric(name: str, config_name: str | None = None, **options: Any) -> evaluate.Metric:
    """Loads a metric of this package.

    Args:
        name: `"glue"`, `"squad"` or `"squad_v2"`.
        config_name: Key of the task for GLUE, as in `evaluate.load("glue", "mrpc")`.
        options: Other arguments of `evaluate.load`.

    Raises:
        ValueError: The metric does not exist.
    """
    folder = Path(__file__).parent / name
    if not (folder / f"{name}.py").is_file():
        known = sorted(path.parent.name for path in Path(__file__).parent.glob("*/*.py"))
        raise ValueError(f"There is no metric {name!r}: expected one of {', '.join(known)}.")
    return evaluate.load(str(folder), config_name, **options)


def score_glue(task: GlueTask, predictions: ArrayLike, references: ArrayLike) -> dict[str, Any]:
    """Computes the metrics of a task with `evaluate`; see `glue_scores`."""
    return _glue_metric(task.key).compute(predictions=predictions, references=references)


@cache
def _glue_metric(key: str) -> evaluate.Metric:
    return load_metric("glue", key)
