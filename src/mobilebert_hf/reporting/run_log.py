"""What a run's folder says about it: its log, its recipe, its stages, its results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers.trainer_utils import sort_checkpoints

from ..distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from ..distillation.strategies import Strategy
from ..distillation.trainer import TERMS, DistillationArguments
from ..pretraining.run_folder import RECIPE
from ..recipe import parse_recipe


@dataclass
class RunLog:
    """A run as far as it went.

    Args:
        name: The folder's.
        recipe: What the run was made with, as YAML has it.
        training: Log lines of training, in order; `step` counts from 1.
        evaluations: Log lines of evaluation.
        steps_done: Steps so far, of `max_steps`.
        max_steps: Steps of the whole run.
        strategy: The stages of a distillation; None for pre-training.
        term_weights: What a layer's terms are multiplied by, for their sum; in the order of `TERMS`.
        results: The final evaluation, empty before the end.
    """

    name: str
    recipe: dict[str, Any]
    training: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    steps_done: int
    max_steps: int
    strategy: Strategy | None
    term_weights: tuple[float, ...]
    results: dict[str, float]

    def series(self, key: str, evaluations: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The steps and values of one logged quantity."""
        lines = [line for line in (self.evaluations if evaluations else self.training) if key in line]
        return np.array([line["step"] for line in lines]), np.array([line[key] for line in lines], dtype=float)

    def layer_losses(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Every layer's weighted transfer loss over time.

        Returns:
            The steps [n]; the losses [layers, n], NaN where a layer's loss was not computed; and whether they are of
            held-out text (where at least two evaluations were logged) and not of training.
        """
        held_out = len(self.evaluations) > 1
        lines, prefix = (self.evaluations, "eval_") if held_out else (self.training, "")
        layers = range(len(self.strategy.stages[0].layer_rates) if self.strategy else 0)
        losses = [[self._layer_loss(line, f"{prefix}layer_{layer}/") for line in lines] for layer in layers]
        return np.array([line["step"] for line in lines]), np.array(losses, dtype=float), held_out

    def _layer_loss(self, line: dict[str, Any], prefix: str) -> float:
        terms = zip(TERMS, self.term_weights, strict=True)
        return sum(weight * line.get(prefix + term, np.nan) for term, weight in terms)


def read_run(folder: str | Path) -> RunLog:
    """Reads the folder of a run that goes on, was interrupted, or is finished.

    Raises:
        FileNotFoundError: There is no such folder, or it has no recipe, or no checkpoint yet.
        ValueError: The run has logged nothing yet.
    """
    folder = Path(folder)
    recipe = folder / RECIPE
    if not recipe.is_file():
        raise FileNotFoundError(
            f"{folder} is not the folder of a run: it has no {RECIPE}. Give a recipe's output_dir."
        )
    places = [folder, *map(Path, reversed(sort_checkpoints(str(folder))))]
    found = [place for place in places if (place / "trainer_state.json").is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; the first one is written after save_steps steps.")
    states = {place: json.loads((place / "trainer_state.json").read_text()) for place in found}
    newest, state = max(states.items(), key=lambda item: item[1]["global_step"])
    training = [line for line in state["log_history"] if "loss" in line]
    if not training:
        raise ValueError(f"{folder} has no line of log yet; the first one is written after logging_steps steps.")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    strategy, weights = None, ()
    if "teacher" in values:
        arguments: DistillationArguments = parse_recipe(DISTILLATION, ["--config", str(recipe)])[-1]
        strategy = arguments.build_strategy(json.loads((newest / "config.json").read_text())["num_hidden_layers"])
        weights = tuple(getattr(arguments, f"{term}_weight") for term in TERMS)
    results = folder / "eval_results.json"
    return RunLog(
        name=folder.resolve().name,
        recipe=values,
        training=training,
        evaluations=[line for line in state["log_history"] if "eval_loss" in line],
        steps_done=state["global_step"],
        max_steps=state["max_steps"],
        strategy=strategy,
        term_weights=weights,
        results=json.loads(results.read_text()) if results.is_file() else {},
    )
