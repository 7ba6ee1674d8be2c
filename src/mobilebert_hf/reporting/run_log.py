"""Reads the log, stages and recipe of a run folder."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.run_folder import RECIPE
from ..runs.stages import RunStage, RunStages

Line = dict[str, float]

STATE = "trainer_state.json"
TRANSFER_TERMS = ("feature_map", "mean", "variance", "attention", "relation")


@dataclass(frozen=True)
class RunLog:
    """A finished or running run.

    Args:
        folder: The run folder.
        step: Global step of the end of the run or the newest checkpoint.
        total_steps: Number of steps of the whole run.
        training: Training log lines in order of steps. Each covers the steps since the previous one.
        evaluations: Evaluation log lines in order of steps; the last is `eval_results.json` if the run is finished.
        layers: Number of layers; 0 if the run is not a distillation.
        recipe: Text of `recipe.yaml`, if it exists.
        planned: Contents of `stages.json`, if it exists.
    """

    folder: Path
    step: int
    total_steps: int
    training: list[Line]
    evaluations: list[Line]
    layers: int
    recipe: str | None
    planned: RunStages | None

    @property
    def finished(self) -> bool:
        """Whether the run has finished all steps."""
        return self.step >= self.total_steps

    @property
    def is_distillation(self) -> bool:
        """Whether the run is a distillation."""
        return "stage" in self.training[-1]

    @property
    def title(self) -> str:
        """Title of the report."""
        if not self.is_distillation:
            return f"{self.folder.resolve().name}: pre-training"
        strategy = f"{self.planned.strategy} knowledge transfer" if self.planned else "knowledge transfer"
        return f"{self.folder.resolve().name}: {strategy}, {self.layers} layers"

    @cached_property
    def windows(self) -> list[tuple[int, Line]]:
        """(first global step, training line) of each logging window."""
        starts = [0, *(int(line["step"]) for line in self.training[:-1])]
        return list(zip(starts, self.training, strict=True))

    @cached_property
    def stages(self) -> list[RunStage]:
        """Stages that have started. Pre-training has one stage."""
        if self.planned is not None:
            return [stage for stage in self.planned.stages if stage.start < self.step]
        if not self.is_distillation:
            return [RunStage("pre-training", 0, self.total_steps, (), True)]
        return self._stages_of_lines()

    def _stages_of_lines(self) -> list[RunStage]:
        """Infers stages from `stage` in the log lines, exact to a logging window."""
        stages: dict[int, RunStage] = {}
        for start, line in self.windows:
            index = int(line["stage"])
            # The first line of a stage can include the end of the previous stage; later lines do not.
            stages[index] = RunStage(
                name=f"stage {index}",
                start=stages[index].start if index in stages else start,
                end=int(line["step"]),
                layers=tuple(layer for layer in range(self.layers) if f"layer_{layer}/{TRANSFER_TERMS[0]}" in line),
                pretraining="masked_lm_loss" in line,
            )
        return list(stages.values())

    def term(self, line: Line, name: str, stage: RunStage, prefix: str = "") -> float:
        """Returns a loss term of a line, NaN if missing. Transfer terms are averaged over the layers of the stage."""
        if name not in TRANSFER_TERMS:
            return line.get(prefix + name, np.nan) if stage.pretraining or prefix else np.nan
        values = [line.get(f"{prefix}layer_{layer}/{name}", np.nan) for layer in stage.layers]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else np.nan

    def curve(self, name: str, stage: RunStage) -> tuple[list[int], list[float]]:
        """Returns steps and values of a term in a stage. Logging windows are clipped at the end of the stage."""
        lines = [line for start, line in self.windows if start < stage.end and line["step"] > stage.start]
        return [min(int(line["step"]), stage.end) for line in lines], [self.term(line, name, stage) for line in lines]

    def lines_within(self, stage: RunStage) -> list[Line]:
        """Returns the training lines whose logging window is within the stage."""
        return [line for start, line in self.windows if stage.start <= start and line["step"] <= stage.end]

    @property
    def total_stages(self) -> int:
        """Number of planned stages; 0 if unknown."""
        return len(self.planned.stages) if self.planned else 0

    def layer_losses(self, line: Line, prefix: str = "") -> list[float]:
        """Returns the weighted sum of the transfer terms of each layer; NaN where they were not computed.

        All weights are 1 if the run has no `stages.json`.
        """
        weights = self.planned.loss_weights if self.planned else dict.fromkeys(TRANSFER_TERMS, 1.0)
        losses = []
        for layer in range(self.layers):
            names = {term: f"{prefix}layer_{layer}/{term}" for term, weight in weights.items() if weight > 0}
            known = [weights[term] * line[name] for term, name in names.items() if name in line]
            losses.append(sum(known) if known else np.nan)
        return losses

    def learning_rates(self, line: Line) -> dict[str, float]:
        """Returns the learning rate of each parameter group at a line's last step; empty if not logged."""
        return {key.split("/")[1]: value for key, value in line.items() if key.startswith("learning_rate/")}


def read_run(folder: str | Path) -> RunLog:
    """Reads the folder of a pre-training or distillation run.

    The log of a finished run is in `trainer_state.json`, that of a running one in its newest checkpoint.

    Args:
        folder: `output_dir` of the run.

    Raises:
        FileNotFoundError: The folder does not exist or has no trainer state.
        ValueError: A file is damaged, or nothing has been logged yet.
    """
    folder = Path(folder)
    source = _newest_state(folder)
    state = _read_json(source)
    lines = state["log_history"]
    training = [line for line in lines if "loss" in line]
    if not training:
        raise ValueError(f"{source} has no training log yet. Wait until logging_steps steps are done and saved.")
    evaluations = [line for line in lines if "eval_loss" in line]
    step, total_steps = int(state["global_step"]), int(state["max_steps"])
    results = folder / "eval_results.json"
    if results.is_file() and step >= total_steps:
        # The evaluation of the finished model replaces one that the Trainer logged at the same step.
        evaluations = [line for line in evaluations if line["step"] < step] + [{**_read_json(results), "step": step}]
    layers = _count_layers(source.with_name("config.json"), training) if "stage" in training[-1] else 0
    recipe = folder / RECIPE
    return RunLog(
        folder=folder,
        step=step,
        total_steps=total_steps,
        training=training,
        evaluations=evaluations,
        layers=layers,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        planned=RunStages.read(folder) if layers else None,
    )


def _newest_state(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"Folder {folder} does not exist: expected the output_dir of a run.")
    checkpoints = {}
    for path in folder.glob(f"checkpoint-*/{STATE}"):
        if match := re.fullmatch(r"checkpoint-(\d+)", path.parent.name):
            checkpoints[int(match[1])] = path
    newest = max(checkpoints, default=0)
    final = folder / STATE
    # A finished run that was extended has newer checkpoints.
    if final.is_file() and int(_read_json(final)["global_step"]) >= newest:
        return final
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder} has neither {STATE} nor checkpoint-<step>/{STATE}. It is not a run folder, or the first "
            "checkpoint (save_steps) has not been written yet."
        )
    return checkpoints[newest]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error}).") from error


def _count_layers(config: Path, lines: list[Line]) -> int:
    """Returns `num_hidden_layers` of the configuration, or the number of layers in the log if it does not exist."""
    if config.is_file():
        return int(_read_json(config)["num_hidden_layers"])
    named = (re.search(r"layer_(\d+)", key) for line in lines for key in line)
    return 1 + max(int(match[1]) for match in named if match)
