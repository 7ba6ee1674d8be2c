"""The folder of a run: its lock, and `recipe.yaml` with the arguments of the run."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout
from transformers import TrainingArguments

from ..files import atomic_write_text
from ..machine import describe_version
from .checkpoints import last_good_checkpoint
from .compat import broadcast_object_list, default_accelerator_config

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
LOCK = ".lock"
# Values that `TrainingArguments` gives to fields that were not set. (Tokens are never written.)
LIBRARY_DEFAULTS = {
    "activation_checkpointing": False,
    "gradient_checkpointing": False,
    "disable_tqdm": False,
    "debug": [],
    "report_to": [],
    "accelerator_config": default_accelerator_config(),
    "hub_token": "<HUB_TOKEN>",
}


class Recipe(NamedTuple):
    """The contents of `recipe.yaml`.

    Args:
        classes: Names of the argument dataclasses, in order.
        values: Arguments that differ from their defaults.
        version: Version of this package.
    """

    classes: tuple[str, ...]
    values: dict[str, Any]
    version: str

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Reads a file written by `write`.

        Raises:
            ValueError: The file is not YAML, or does not start with the comments that name classes and version.
        """
        text = path.read_text(encoding="utf-8")
        comments = [line.removeprefix("# ") for line in text.splitlines()[:2] if line.startswith("# ")]
        if len(comments) < 2:
            raise ValueError(
                f"{path}: expected two comment lines at the start, the argument classes and the version of "
                "mobilebert-hf, as written by a run."
            )
        try:
            values = yaml.safe_load(text) or {}
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: it is not YAML ({error}).") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} is damaged: it has {values!r}, expected names and values.")
        return cls(tuple(comments[0].split(", ")), values, comments[1])

    def write(self, path: Path) -> None:
        """Writes a recipe that can be run again."""
        values = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)
        atomic_write_text(path, f"# {', '.join(self.classes)}\n# {self.version}\n{values}")


@contextmanager
def open_run_folder(training: TrainingArguments, arguments: Sequence[Any]) -> Iterator[Path]:
    """Locks `training.output_dir` for this run and writes `recipe.yaml`.

    If a resumed run has other arguments than before, a warning lists them.

    Args:
        training: Training arguments of the run.
        arguments: All argument dataclasses of the recipe, `training` included.

    Raises:
        ValueError: Another run uses the folder.
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
            f"{folder} is in use by another run. Wait for it, stop it (a killed launcher can leave processes), "
            "or choose another output_dir."
        ) from error
    try:
        classes = tuple(type(argument).__name__ for argument in arguments)
        _write_recipe(folder / RECIPE, Recipe(classes, resolve(arguments), describe_version()))
        yield folder
    finally:
        lock.release()


def find_checkpoint(training: TrainingArguments) -> str | None:
    """Returns the checkpoint to resume from: the newest valid one, else `resume_from_checkpoint`, else None.

    The first process searches (see `last_good_checkpoint`) and broadcasts the result.
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
        logger.warning("%s was started with other arguments: %s.", path.parent, "; ".join(changed))
    recipe.write(path)


def resolve(arguments: Sequence[Any]) -> dict[str, Any]:
    """Returns the fields of dataclasses that differ from their defaults, as YAML values."""
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
