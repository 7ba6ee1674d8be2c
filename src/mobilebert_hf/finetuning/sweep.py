"""Sweeps: a grid of fine-tuning runs, of which those that are not finished are run.

Each task has a folder with a folder for each run, named by its settings. A run is finished when it has a
`results.json`. Only the model of the best run of a task is kept.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import atomic_write_text
from ..runs.checkpoints import STAGING

RESULTS = "results.json"


@dataclass
class GridArguments:
    """Sweep: one run for every combination of these values.

    An argument that is not given has one value, that of `TrainingArguments`.
    """

    seeds: list[int] | None = field(default=None, metadata={"help": "Random seeds. By default the value of seed."})
    batch_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Training batch sizes, over all devices and accumulated batches."},
    )
    learning_rates: list[float] | None = field(default=None, metadata={"help": "Peak learning rates."})
    epochs: list[float] | None = field(default=None, metadata={"help": "Numbers of training epochs."})


@dataclass(frozen=True)
class Cell:
    """The settings of one run."""

    batch_size: int
    learning_rate: float
    epochs: float
    seed: int

    @property
    def point(self) -> tuple[int, float, float]:
        """The settings without the seed."""
        return self.batch_size, self.learning_rate, self.epochs

    @property
    def name(self) -> str:
        """The name of the folder of the run."""
        return f"batch{self.batch_size}-lr{self.learning_rate:g}-epochs{self.epochs:g}-seed{self.seed}"


def plan(grid: GridArguments, default: Cell) -> list[Cell]:
    """All runs; those that differ only in the seed follow each other.

    Args:
        grid: The values to combine.
        default: The settings for values that are not given.

    Raises:
        ValueError: A list is empty, or has a value twice or one that is not positive.
    """
    values: list[Sequence[Any]] = []
    for name in ("batch_sizes", "learning_rates", "epochs", "seeds"):
        given = getattr(grid, name)
        given = [getattr(default, name.removesuffix("s") if name != "epochs" else name)] if given is None else given
        if not given or len(set(given)) < len(given) or (name != "seeds" and min(given) <= 0):
            raise ValueError(f"{name}={given}: expected positive values, each once, and at least one.")
        values.append(given)
    return [Cell(*combination) for combination in itertools.product(*values)]


@dataclass
class Finished:
    """A finished run.

    Args:
        cell: The settings.
        score: The score of the task on the validation data, between 0 and 1; None if it is undefined.
        details: The other contents of its `results.json`.
    """

    cell: Cell
    score: float | None
    details: dict[str, Any]

    @property
    def rank(self) -> float:
        """The score to compare runs by; a run without a score is worse than any other."""
        return float("-inf") if self.score is None else self.score


def write_finished(folder: Path, finished: Finished) -> None:
    """Marks a run as finished, and removes its checkpoints."""
    content = {"cell": asdict(finished.cell), "score": finished.score, **finished.details}
    atomic_write_text(folder / RESULTS, json.dumps(content, indent=1) + "\n")
    for path in (*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), folder / STAGING):
        shutil.rmtree(path, ignore_errors=True)


def read_finished(folder: Path) -> Finished | None:
    """The run of a folder, or None if it is not finished."""
    path = folder / RESULTS
    if not path.is_file():
        return None
    details = json.loads(path.read_text(encoding="utf-8"))
    return Finished(Cell(**details.pop("cell")), details.pop("score"), details)


def keep_best_model(task_folder: Path) -> Path:
    """Removes the models of all finished runs but the best, the first of equals; returns the folder of the best."""
    runs = [(folder, read_finished(folder)) for folder in sorted(task_folder.iterdir()) if folder.is_dir()]
    finished = [(folder, run) for folder, run in runs if run is not None]
    best = max(finished, key=lambda pair: pair[1].rank)[0]
    for folder, _ in finished:
        if folder != best:
            for path in folder.iterdir():
                if path.name != RESULTS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return best


def by_point(runs: Sequence[Finished]) -> Iterator[tuple[tuple[int, float, float], list[Finished]]]:
    """Groups runs by their settings without the seed."""
    points = dict.fromkeys(run.cell.point for run in runs)
    for point in points:
        yield point, [run for run in runs if run.cell.point == point]


def median_score(runs: Sequence[Finished]) -> float | None:
    """The median score over seeds; None if the median run has no score, which is worse than any."""
    middle = median(run.rank for run in runs)
    return None if middle == float("-inf") else middle


def best_point(runs: Sequence[Finished]) -> list[Finished]:
    """The runs of the settings with the highest median score, the first of equals."""
    return max((group for _, group in by_point(runs)), key=lambda group: median(run.rank for run in group))
