"""The stages of a run, as `stages.json` says: reports read them, and do not know how a strategy made them."""

from dataclasses import dataclass, field
from pathlib import Path

from .schema import read_record, write_record

STAGES = "stages.json"


@dataclass(frozen=True)
class RunStage:
    """A stretch of a run in which the same losses count.

    Args:
        name: What tables and pictures call it.
        start: Steps that were done before it.
        end: Steps that are done after it.
        layers: Whose transfer losses count.
        pretraining: Whether masked-LM and next-sentence losses count.
        depth: How many layers run, where it is known.
    """

    name: str
    start: int
    end: int
    layers: tuple[int, ...]
    pretraining: bool
    depth: int | None = None


@dataclass(frozen=True)
class RunStages:
    """All stages of a run, from its first step to its last.

    Args:
        strategy: The name of the strategy of transfer.
        stages: One after the other.
        loss_weights: Of a layer's transfer terms, by the names that are logged.
    """

    strategy: str
    stages: tuple[RunStage, ...]
    loss_weights: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "RunStages | None":
        """The stages of a run's folder; None where it has none.

        Raises:
            ValueError: The file is damaged; names the field.
        """
        path = folder / STAGES
        return read_record(path, cls) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Writes `stages.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / STAGES, self)
