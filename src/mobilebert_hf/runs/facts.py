"""`facts.json`: what a model is, written by the run that produced it and read by cards, reports and publishing.

Every producer of a model writes a `ModelFacts` to the run folder. Readers do not depend on the producer.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..machine import describe_version
from .run_folder import RECIPE, Recipe
from .schema import read_record, write_record

FACTS, PICTURE = "facts.json", "report.png"
# Logged metrics of held-out text -> displayed name and format.
HELD_OUT = {
    "eval_masked_lm_loss": ("masked-LM loss", "{:.3f}"),
    "eval_masked_lm_accuracy": ("masked-LM accuracy", "{:.1%}"),
    "eval_next_sentence_loss": ("next-sentence loss", "{:.3f}"),
    "eval_next_sentence_accuracy": ("next-sentence accuracy", "{:.1%}"),
}
# `owner/name` of a model or data set, of a data set with its configuration.
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")
HELD_OUT_NOTE = "Measured on held-out documents of the corpus."


@dataclass(frozen=True)
class Source:
    """The teacher or base model of a model.

    Args:
        role: `"teacher"` or `"base"`.
        name: Displayed name: Hub id, or last part of a local path.
        hub_id: Hub id, if the model is on the Hub.
    """

    role: str
    name: str
    hub_id: str | None = None

    @classmethod
    def of(cls, role: str, model: str | None) -> "Source | None":
        """Creates the source for a Hub id or folder; None if `model` is empty."""
        return cls(role, public_name(model), hub_id(model)) if model else None

    @property
    def markdown(self) -> str:
        """The name, with a link if the model is on the Hub."""
        return f"[{self.name}](https://huggingface.co/{self.hub_id})" if self.hub_id else f"`{self.name}`"


@dataclass(frozen=True)
class Score:
    """A score on a data set.

    Args:
        task: Task type on the Hub, such as `"text-classification"`.
        name: Displayed name of the data set.
        dataset: Hub id of the data set.
        config: Configuration of the data set, or None.
        split: Split of the data set.
        metric: Name of the metric on the Hub.
        value: Value in the unit of the metric; fractions in percent.
    """

    task: str
    name: str
    dataset: str
    config: str | None
    split: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts of a model. They contain no local paths.

    Args:
        summary: Description in a few sentences of Markdown; `{source}` is replaced by `source`.
        source: Teacher or base model.
        datasets: Hub ids of the training data.
        scores: Scores on public data sets.
        results: Table of all results, heading first.
        results_note: How the results were measured.
        picture: File name of the plot of losses, if there is one.
        command: Command that reproduces the model from its recipe.
        version: Version of this package.
    """

    summary: str = ""
    source: Source | None = None
    datasets: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    results: tuple[tuple[str, ...], ...] = ()
    results_note: str = ""
    picture: str | None = None
    command: str | None = None
    version: str = field(default_factory=describe_version)

    def with_held_out(self, measured: Mapping[str, float]) -> "ModelFacts":
        """Returns a copy with a table of the metrics of held-out text, unless `results` is set."""
        rows = [(name, form.format(measured[key])) for key, (name, form) in HELD_OUT.items() if key in measured]
        if self.results or not rows:
            return self
        return replace(self, results=(("on held-out text", ""), *rows), results_note=HELD_OUT_NOTE)

    def write(self, folder: Path) -> None:
        """Writes `facts.json`."""
        write_record(folder / FACTS, self)


@dataclass(frozen=True)
class ModelRecord:
    """The contents of a model folder, for cards and publishing.

    Args:
        folder: Folder of the model.
        config: Contents of `config.json`.
        facts: Contents of `facts.json`.
        arguments: Arguments of the recipe that differ from their defaults.
    """

    folder: Path
    config: Mapping[str, Any]
    facts: ModelFacts
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "ModelRecord":
        """Reads a model folder.

        Raises:
            FileNotFoundError: The folder has no `config.json`.
            ValueError: `facts.json` or `recipe.yaml` is damaged.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not a model folder: it has no config.json.")
        recipe = Recipe.read(folder / RECIPE) if (folder / RECIPE).is_file() else None
        if (folder / FACTS).is_file():
            facts = read_record(folder / FACTS, ModelFacts)
        else:
            facts = ModelFacts(version=recipe.version) if recipe else ModelFacts()
        config = json.loads(path.read_text(encoding="utf-8"))
        return cls(folder, config, facts, recipe.values if recipe else {})


def hub_id(name: str) -> str | None:
    """Returns `name` if it is the Hub id of a model or data set; None if it is a path."""
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def public_name(name: str) -> str:
    """Returns a Hub id unchanged, and the last part of a path, so that local paths are not published."""
    return hub_id(name) or Path(name).name


def hub_ids(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names that are Hub ids."""
    return tuple(name for name in map(hub_id, names) if name)


def recipe_command(name: str) -> str:
    """Returns the command that runs `recipe.yaml` of a run folder."""
    return f"accelerate launch recipes/{name}.py --config {RECIPE}"
