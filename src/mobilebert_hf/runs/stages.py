"""`stages.json`: the stages of a run, for reports."""

from dataclasses import dataclass, field
from pathlib import Path

from .schema import read_record, write_record

STAGES = "stages.json"


@dataclass(frozen=True)
class RunStage:
    """A range of steps with the same losses.

    Args:
        name: Name in tables and plots.
        start: Global step at which the stage starts.
        end: Global step at which the stage ends.
        layers: Layers whose transfer losses are used.
        pretraining: Whether masked-LM and next-sentence losses are used.
        depth: Number of layers that run, if known.
    """

    name: str
    start: int
    end: int
    layers: tuple[int, ...]
    pretraining: bool
    depth: int | None = None


@dataclass(frozen=True)
class RunStages:
    """All stages of a run.

    Args:
        strategy: Name of the strategy.
        stages: Stages in order.
        loss_weights: Weights of the transfer terms of a layer, by their names in the log.
    """

    strategy: str
    stages: tuple[RunStage, ...]
    loss_weights: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "RunStages | None":
        """Reads the stages of a run folder; None if it has no `stages.json`.

        Raises:
            ValueError: The file is damaged.
        """
        path = folder / STAGES
        return read_record(path, cls) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Writes `stages.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / STAGES, self)
