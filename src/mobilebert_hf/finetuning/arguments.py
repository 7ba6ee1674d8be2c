"""The arguments that all tasks have in common."""

from dataclasses import dataclass, field
from pathlib import Path

from ..tasks.glue_tasks import TASKS


@dataclass
class TaskArguments:
    """Task."""

    task: list[str] = field(
        metadata={
            "help": f"squad; or one or more GLUE tasks: {', '.join(TASKS)}; or glue for all of them. The other "
            "options depend on the task: `--task squad --help` and `--task cola --help` list them."
        }
    )
    bad_rows: str = field(
        default="error",
        metadata={
            "help": "What to do with faulty rows of the data: error lists them and ends; skip leaves them out and "
            "writes them to the folder bad_rows in output_dir."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Maximum number of training examples or questions, sampled at random with a fixed seed."},
    )

    def __post_init__(self) -> None:
        if self.bad_rows not in ("error", "skip"):
            raise ValueError(f"bad_rows={self.bad_rows}: expected error or skip.")

    def skipped_rows(self, output_dir: str | None) -> Path | None:
        """The folder for the faulty rows, a file for each split; None if they are errors."""
        return Path(output_dir or ".") / "bad_rows" if self.bad_rows == "skip" else None
