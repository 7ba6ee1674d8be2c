"""A grid of fine-tuning runs, and which of them are still to do.

A folder a task, and in it a folder a run, named by its settings. A run is done when its `results.json` is there. Of a
task's runs only the best one's model is kept.
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
    """What to try: every combination of the values given, each with every seed.

    Args:
        seeds (`list[int]`, *optional*):
            By default the run's own `seed`, as for the others below.
        batch_sizes (`list[int]`, *optional*):
            Examples a step, over all devices and accumulated batches.
        learning_rates (`list[float]`, *optional*):
            Highest learning rates.
        epochs (`list[float]`, *optional*):
            Passes over the training data.
    """

    seeds: list[int] | None = field(default=None, metadata={"help": "One run each."})
    batch_sizes: list[int] | None = field(default=None, metadata={"help": "Examples a step, over all devices."})
    learning_rates: list[float] | None = field(default=None, metadata={"help": "Highest learning rates."})
    epochs: list[float] | None = field(default=None, metadata={"help": "Passes over the training data."})


@dataclass(frozen=True)
class Cell:
    """The settings of one run."""

    batch_size: int
    learning_rate: float
    epochs: float
    seed: int

    @property
    def point(self) -> tuple[int, float, float]:
        """Its place in the grid, which it shares with other seeds."""
        return self.batch_size, self.learning_rate, self.epochs

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"batch{self.batch_size}-rate{self.learning_rate:g}-epochs{self.epochs:g}-seed{self.seed}"


def plan(grid: GridArguments, default: Cell) -> list[Cell]:
    """All runs, those of the same place in the grid one after another.

    Raises:
        ValueError: A list is empty, has the same value twice, or one that is not positive; names it.
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
    """A run that is done.

    Args:
        cell: Its settings.
        score: The task's score on the validation data, a share of 1; None where it is undefined.
        details: Whatever else its `results.json` says.
    """

    cell: Cell
    score: float | None
    details: dict[str, Any]

    @property
    def rank(self) -> float:
        """What to compare runs by: one without a score is worse than any other."""
        return float("-inf") if self.score is None else self.score


def write_finished(folder: Path, finished: Finished) -> None:
    """Notes that a run is done; its checkpoints go then."""
    content = {"cell": asdict(finished.cell), "score": finished.score, **finished.details}
    atomic_write_text(folder / RESULTS, json.dumps(content, indent=1) + "\n")
    for path in (*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), folder / STAGING):
        shutil.rmtree(path, ignore_errors=True)


def read_finished(folder: Path) -> Finished | None:
    """The run of a folder, if it is done."""
    path = folder / RESULTS
    if not path.is_file():
        return None
    details = json.loads(path.read_text(encoding="utf-8"))
    return Finished(Cell(**details.pop("cell")), details.pop("score"), details)


def keep_best_model(task_folder: Path) -> Path:
    """Removes the models of all finished runs but the best one, the first of equals; returns the best one's folder."""
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
    """Groups runs by their place in the grid."""
    points = dict.fromkeys(run.cell.point for run in runs)
    for point in points:
        yield point, [run for run in runs if run.cell.point == point]


def median_score(runs: Sequence[Finished]) -> float | None:
    """The median over seeds; None where a run has no score, which is worse than any."""
    middle = median(run.rank for run in runs)
    return None if middle == float("-inf") else middle


def best_point(runs: Sequence[Finished]) -> list[Finished]:
    """The runs of the place in the grid with the highest median, the first of equals."""
    return max((group for _, group in by_point(runs)), key=lambda group: median(run.rank for run in group))
