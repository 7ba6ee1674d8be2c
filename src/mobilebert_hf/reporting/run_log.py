"""What a run's folder says of its training: log lines, stages and the recipe, as one object."""

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
    """A run, finished or not.

    Args:
        folder: Where it is.
        step: Steps done, as far as the folder knows: at the end of the run or at the newest checkpoint.
        total_steps: Steps of the whole run.
        training: Log lines of training, by step; each tells of the steps since the one before.
        evaluations: Log lines of evaluation, by step, and `eval_results.json` as the last one.
        layers: How many layers the networks have; 0 where the lines tell nothing of layers.
        recipe: The text of `recipe.yaml`, if there is one.
        planned: The stages that the run was planned with, if it says.
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
        """Whether all steps are done."""
        return self.step >= self.total_steps

    @property
    def is_distillation(self) -> bool:
        """Whether a teacher's knowledge was transferred."""
        return "stage" in self.training[-1]

    @property
    def title(self) -> str:
        """What the run is, in a few words."""
        if not self.is_distillation:
            return f"{self.folder.resolve().name}: pre-training"
        strategy = f"{self.planned.strategy} knowledge transfer" if self.planned else "knowledge transfer"
        return f"{self.folder.resolve().name}: {strategy}, {self.layers} layers"

    @cached_property
    def windows(self) -> list[tuple[int, Line]]:
        """Each training line, after the number of steps that were done when its window began."""
        starts = [0, *(int(line["step"]) for line in self.training[:-1])]
        return list(zip(starts, self.training, strict=True))

    @cached_property
    def stages(self) -> list[RunStage]:
        """The stages that have begun; of a pre-training run, the only one."""
        if self.planned is not None:
            return [stage for stage in self.planned.stages if stage.start < self.step]
        if not self.is_distillation:
            return [RunStage("pre-training", 0, self.total_steps, (), True)]
        return self._stages_of_lines()

    def _stages_of_lines(self) -> list[RunStage]:
        """The stages as far as the lines tell: they change where `stage` does, give or take a logging window."""
        stages: dict[int, RunStage] = {}
        for start, line in self.windows:
            index = int(line["stage"])
            # A window's first line in a stage can tell of the stage before as well; its last line does not.
            stages[index] = RunStage(
                name=f"stage {index}",
                start=stages[index].start if index in stages else start,
                end=int(line["step"]),
                layers=tuple(layer for layer in range(self.layers) if f"layer_{layer}/{TRANSFER_TERMS[0]}" in line),
                pretraining="masked_lm_loss" in line,
            )
        return list(stages.values())

    def term(self, line: Line, name: str, stage: RunStage, prefix: str = "") -> float:
        """A loss term of a line: for a transfer term, the mean of the stage's layers that have it; else NaN."""
        if name not in TRANSFER_TERMS:
            return line.get(prefix + name, np.nan) if stage.pretraining or prefix else np.nan
        values = [line.get(f"{prefix}layer_{layer}/{name}", np.nan) for layer in stage.layers]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else np.nan

    def curve(self, name: str, stage: RunStage) -> tuple[list[int], list[float]]:
        """Steps and values of a term in a stage. A window that reaches out of the stage counts up to its end."""
        lines = [line for start, line in self.windows if start < stage.end and line["step"] > stage.start]
        return [min(int(line["step"]), stage.end) for line in lines], [self.term(line, name, stage) for line in lines]

    def lines_within(self, stage: RunStage) -> list[Line]:
        """The training lines that tell of this stage alone."""
        return [line for start, line in self.windows if stage.start <= start and line["step"] <= stage.end]

    @property
    def total_stages(self) -> int:
        """How many stages there will have been in the end; 0 where the run does not say."""
        return len(self.planned.stages) if self.planned else 0

    def layer_losses(self, line: Line, prefix: str = "") -> list[float]:
        """For each layer the weighted sum of its transfer terms; NaN where they were not computed.

        Where the run does not say its weights, all are 1.
        """
        weights = self.planned.loss_weights if self.planned else dict.fromkeys(TRANSFER_TERMS, 1.0)
        losses = []
        for layer in range(self.layers):
            names = {term: f"{prefix}layer_{layer}/{term}" for term, weight in weights.items() if weight > 0}
            known = [weights[term] * line[name] for term, name in names.items() if name in line]
            losses.append(sum(known) if known else np.nan)
        return losses

    def rates(self, line: Line) -> dict[str, float]:
        """The learning rate of each place at a line's last step; empty where the line does not say."""
        return {key.split("/")[1]: value for key, value in line.items() if key.startswith("learning_rate/")}


def read_run(folder: str | Path) -> RunLog:
    """Reads the folder of a run of pre-training or distillation.

    A finished run's log is in `trainer_state.json`; that of a run that goes on, in its newest checkpoint.

    Args:
        folder: The run's `output_dir`.

    Raises:
        FileNotFoundError: There is no such folder, or no state in it.
        ValueError: A file is damaged, or nothing has been logged yet.
    """
    folder = Path(folder)
    source = _newest_state(folder)
    state = _read_json(source)
    lines = state["log_history"]
    training = [line for line in lines if "loss" in line]
    if not training:
        raise ValueError(f"{source} has no line of training yet: wait until logging_steps steps are done and saved.")
    evaluations = [line for line in lines if "eval_loss" in line]
    step, total_steps = int(state["global_step"]), int(state["max_steps"])
    results = folder / "eval_results.json"
    if results.is_file() and step >= total_steps:
        # The evaluation of the finished network; the Trainer may just have made the same one.
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
        raise FileNotFoundError(f"There is no folder {folder}: give the output_dir of a recipe.")
    checkpoints = {}
    for path in folder.glob(f"checkpoint-*/{STATE}"):
        if match := re.fullmatch(r"checkpoint-(\d+)", path.parent.name):
            checkpoints[int(match[1])] = path
    newest = max(checkpoints, default=0)
    final = folder / STATE
    # A finished run that was made longer has newer checkpoints.
    if final.is_file() and int(_read_json(final)["global_step"]) >= newest:
        return final
    if not checkpoints:
        raise FileNotFoundError(
            f"{folder} has neither {STATE} nor checkpoint-<step>/{STATE}: it is no run of a recipe, or its first "
            "checkpoint (save_steps) is not written yet."
        )
    return checkpoints[newest]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error}).") from error


def _count_layers(config: Path, lines: list[Line]) -> int:
    """As the network's configuration says; without one, as many as the lines name."""
    if config.is_file():
        return int(_read_json(config)["num_hidden_layers"])
    named = (re.search(r"layer_(\d+)", key) for line in lines for key in line)
    return 1 + max(int(match[1]) for match in named if match)
