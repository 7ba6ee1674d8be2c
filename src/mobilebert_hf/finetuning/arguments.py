"""The arguments that all tasks have in common."""

from dataclasses import dataclass, field

from ..tasks.glue_tasks import TASKS
from ..tasks.kinds import LABELLED


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
