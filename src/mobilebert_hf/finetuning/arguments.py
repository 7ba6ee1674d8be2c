"""The arguments that all tasks have in common."""

from dataclasses import dataclass, field
from pathlib import Path

from ..tasks.glue_tasks import TASKS
from ..tasks.kinds import LABELLED
from ..tasks.labelled_data import ColumnNames


@dataclass
class TaskArguments:
    """Task."""

    task: list[str] = field(
        metadata={
            "help": f"{', '.join(LABELLED)}, with your own labels; or squad; or one or more GLUE tasks: "
            f"{', '.join(TASKS)}; or glue for all of them. The other options depend on the task: "
            "`--task classify --help`, `--task squad --help` and `--task cola --help` list them."
        }
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Maximum number of training examples or questions, sampled at random with a fixed seed."},
    )


@dataclass
class FaultyRowArguments:
    """Faulty rows of GLUE and SQuAD files.

    Raises:
        ValueError: `bad_rows` is neither error nor skip.
    """

    bad_rows: str = field(
        default="error",
        metadata={
            "help": "What to do with faulty rows of the data: error lists them and ends; skip leaves them out and "
            "writes them to the folder bad_rows in output_dir."
        },
    )

    def __post_init__(self) -> None:
        if self.bad_rows not in ("error", "skip"):
            raise ValueError(f"bad_rows={self.bad_rows}: expected error or skip.")

    def skipped_rows(self, output_dir: str | None) -> Path | None:
        """The folder for the faulty rows, a file for each split; None if they are errors."""
        return Path(output_dir or ".") / "bad_rows" if self.bad_rows == "skip" else None


@dataclass
class ExampleArguments:
    """Examples: files, columns and labels.

    Raises:
        ValueError: `holdout` is not between 0 and 1.
    """

    validation: str | None = field(
        default=None,
        metadata={
            "help": "File, saved folder or Hub dataset for validation. By default the validation split of the "
            "training data or, if it has none, a part of it that is held out."
        },
    )
    test: str | None = field(
        default=None,
        metadata={"help": "The same for the final scores. By default the test split of the training data, if any."},
    )
    holdout: float = field(
        default=0.1,
        metadata={"help": "Share of the training examples of each class to hold out if there is no validation data."},
    )
    text_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the text, or of the tokens; by default one with a usual name. A number counts from 1 "
            "in a file without column names."
        },
    )
    pair_column: str | None = field(default=None, metadata={"help": "Column of the second text."})
    label_column: list[str] | None = field(
        default=None,
        metadata={"help": "Column of the labels; for multilabel also a column of 0 and 1 for each label."},
    )
    class_names: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the labels, or a file with a name per line, for labels that are indices from 0."},
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens in a sequence, by default 128. tag reads longer texts in windows."
        },
    )
    early_stopping: int | None = field(
        default=3,
        metadata={"help": "Stop after this many epochs without a better validation score; none: train all epochs."},
    )

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout={self.holdout}: expected a share between 0 and 1, such as 0.1.")

    @property
    def columns(self) -> ColumnNames:
        """Which columns are read."""
        label = tuple(self.label_column) if self.label_column else None
        return ColumnNames(self.text_column, self.pair_column, label, tuple(self.class_names or ()))
