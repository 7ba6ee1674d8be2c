"""What a model is, as the run that made it says in `facts.json`: cards and publishing read this and nothing else.

Whatever makes a model writes a `ModelFacts` into its folder, beside the recipe. A new kind of run needs no change in
what reads.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..machine import describe_version
from .run_folder import RECIPE, Recipe
from .schema import read_record, write_record

FACTS, PICTURE = "facts.json", "report.png"
# Metrics of held-out text, by the names that trainers log: what they are called, and their form.
HELD_OUT = {
    "eval_masked_lm_loss": ("masked-LM loss", "{:.3f}"),
    "eval_masked_lm_accuracy": ("masked-LM accuracy", "{:.1%}"),
    "eval_next_sentence_loss": ("next-sentence loss", "{:.3f}"),
    "eval_next_sentence_accuracy": ("next-sentence accuracy", "{:.1%}"),
}
HELD_OUT_NOTE = "The corpus' own held-out documents."


@dataclass(frozen=True)
class Source:
    """The model that a model was made from.

    Args:
        role: `"teacher"` or `"base"`.
        name: For people; of a local path the last part alone.
        hub_id: If it is on the Hub.
    """

    role: str
    name: str
    hub_id: str | None = None

    @classmethod
    def of(cls, role: str, place: str | None) -> "Source | None":
        """What is at a Hub id or in a folder; None where nothing is named."""
        if not place:
            return None
        return cls(role, public_name(place), hub_id(place))

    @property
    def markdown(self) -> str:
        """The name, with a link to the Hub if it is there."""
        return f"[{self.name}](https://huggingface.co/{self.hub_id})" if self.hub_id else f"`{self.name}`"


@dataclass(frozen=True)
class Score:
    """A number that a run measured on a data set.

    Args:
        task: The Hub's name for the kind of task, as `"text-classification"`.
        name: The data set's, for people.
        dataset: The data set's id on the Hub.
        config: Which part of it, or None.
        split: Which split.
        metric: The Hub's name of the metric.
        value: In the metric's unit; shares in percent.
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
    """What is known of a model when it is made. No local path is in it.

    Args:
        summary: What the model is, in a few sentences of Markdown; `{source}` stands for `source`.
        source: What it was made from.
        datasets: Hub ids of what it was trained on.
        scores: What was measured on data sets that others have, too.
        results: A table of everything that was measured, its first row the heading.
        results_note: Where its numbers come from.
        picture: The file that the run's losses are drawn to, if they are.
        command: What makes the model again from its recipe.
        version: Of this package.
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
        """The same with a table of the metrics of held-out text, unless there is a table already."""
        rows = [(name, form.format(measured[key])) for key, (name, form) in HELD_OUT.items() if key in measured]
        if self.results or not rows:
            return self
        return replace(self, results=(("on held-out text", ""), *rows), results_note=HELD_OUT_NOTE)

    def write(self, folder: Path) -> None:
        """Writes `facts.json`."""
        write_record(folder / FACTS, self)


@dataclass(frozen=True)
class ModelRecord:
    """A model's folder as cards and publishing see it.

    Args:
        folder: The model's.
        config: The model's configuration, as its `config.json` says.
        facts: What the run says.
        arguments: The recipe's, as far as they are not at their defaults.
    """

    folder: Path
    config: Mapping[str, Any]
    facts: ModelFacts
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "ModelRecord":
        """What a folder tells.

        Raises:
            FileNotFoundError: There is no `config.json`.
            ValueError: `facts.json` is damaged, or `recipe.yaml` does not say what made it.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no model: there is no config.json in it.")
        recipe = Recipe.read(folder / RECIPE) if (folder / RECIPE).is_file() else None
        if (folder / FACTS).is_file():
            facts = read_record(folder / FACTS, ModelFacts)
        else:
            facts = ModelFacts(version=recipe.version) if recipe else ModelFacts()
        config = json.loads(path.read_text(encoding="utf-8"))
        return cls(folder, config, facts, recipe.values if recipe else {})


def hub_id(name: str) -> str | None:
    """A name of a model or data set if it is one on the Hub, and no path."""
    return None if Path(name).exists() or name.count("/") != 1 else name


def public_name(name: str) -> str:
    """A Hub id as it is, and of a path the last part: the others are nobody else's business."""
    return hub_id(name) or Path(name).name


def hub_ids(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Those names that are on the Hub."""
    return tuple(name for name in map(hub_id, names) if name)


def recipe_command(name: str) -> str:
    """What starts a recipe of this project in a run's folder."""
    return f"accelerate launch recipes/{name}.py --config {RECIPE}"
