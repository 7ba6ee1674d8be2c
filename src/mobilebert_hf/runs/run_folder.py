"""The folder of a run: one process tree at a time writes to it, and it says what the run was made with."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from ..files import atomic_write_text
from ..machine import describe_version
from .checkpoints import last_good_checkpoint

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
LOCK = ".lock"
# What `TrainingArguments` makes of fields that nobody set. (A token is never written down.)
LIBRARY_DEFAULTS = {
    "activation_checkpointing": False,
    "gradient_checkpointing": False,
    "disable_tqdm": False,
    "debug": [],
    "report_to": [],
    "accelerator_config": {k: v for k, v in AcceleratorConfig().to_dict().items() if k != "use_configured_state"},
    "hub_token": "<HUB_TOKEN>",
}


class Recipe(NamedTuple):
    """What `recipe.yaml` says.

    Args:
        classes: The names of the dataclasses of the recipe, in order.
        values: Every argument that is not at its default.
        version: Of this package, that the run was made with.
    """

    classes: tuple[str, ...]
    values: dict[str, Any]
    version: str

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """A file that `write` has written.

        Raises:
            ValueError: It does not begin with comments that name the classes and the version.
        """
        text = path.read_text(encoding="utf-8")
        comments = [line.removeprefix("# ") for line in text.splitlines()[:2] if line.startswith("# ")]
        if len(comments) < 2:
            raise ValueError(
                f"{path} does not say what made it: its first two lines must be comments with the classes of its "
                "arguments and with the version of mobilebert-hf, as a run writes them."
            )
        return cls(tuple(comments[0].split(", ")), yaml.safe_load(text) or {}, comments[1])

    def write(self, path: Path) -> None:
        """Writes a recipe that can be run as it is."""
        values = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)
        atomic_write_text(path, f"# {', '.join(self.classes)}\n# {self.version}\n{values}")


@contextmanager
def open_run_folder(training: TrainingArguments, arguments: Sequence[Any]) -> Iterator[Path]:
    """Keeps other runs out of `training.output_dir`, and writes the recipe there.

    `recipe.yaml` has every argument that is not at its default and this package's version, and is a recipe itself.
    Where a run goes on with other arguments than it began with, a warning names them.

    Args:
        training: Of this run.
        arguments: All dataclasses of the recipe, `training` among them.

    Raises:
        ValueError: Another run writes to this folder now.
    """
    folder = Path(training.output_dir or ".")
    if training.process_index > 0:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{folder} is in use by another run: wait for it or end it (a launcher that was killed can leave its "
            "processes behind), or choose another output_dir."
        ) from error
    try:
        classes = tuple(type(argument).__name__ for argument in arguments)
        _write_recipe(folder / RECIPE, Recipe(classes, resolve(arguments), describe_version()))
        yield folder
    finally:
        lock.release()


def find_checkpoint(training: TrainingArguments) -> str | None:
    """Where the run goes on: its newest whole checkpoint, else `resume_from_checkpoint`, else nowhere.

    One process looks (see `last_good_checkpoint`), and tells the others.
    """
    found: list[str | None] = [None]
    if training.process_index == 0:
        checkpoint = last_good_checkpoint(training.output_dir or ".")
        found = [str(checkpoint) if checkpoint else training.resume_from_checkpoint]
    return broadcast_object_list(found)[0]


def _write_recipe(path: Path, recipe: Recipe) -> None:
    values = recipe.values
    before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else values
    changed = [
        f"{name} {before.get(name, 'default')!r} -> {values.get(name, 'default')!r}"
        for name in sorted(before.keys() | values.keys())
        if before.get(name) != values.get(name)
    ]
    if changed:
        logger.warning("%s was begun with other arguments: %s.", path.parent, "; ".join(changed))
    recipe.write(path)


def resolve(arguments: Sequence[Any]) -> dict[str, Any]:
    """The fields of dataclasses that are not at their defaults, in values that YAML knows."""
    values: dict[str, Any] = {}
    for argument in arguments:
        given = argument.to_dict() if isinstance(argument, TrainingArguments) else vars(argument)
        for field in fields(argument):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            value = given.get(field.name, default)
            unset = value in (default, LIBRARY_DEFAULTS.get(field.name, default))
            if field.init and not unset:
                values[field.name] = value
    return values
