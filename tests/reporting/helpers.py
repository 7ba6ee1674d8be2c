"""Runs' folders, written by hand as the trainers write them."""

import json

import yaml

from mobilebert_hf.distillation import PAPER
from mobilebert_hf.runs.stages import RunStage, RunStages

TERMS = ("feature_map", "mean", "variance", "attention")


def training_line(step, stage=None, layers=(), value=1.0, **others):
    """A line of training; the terms of layer i are i + `value`, all four."""
    terms = {f"layer_{layer}/{term}": layer + value for layer in layers for term in TERMS}
    stage = {} if stage is None else {"stage": stage}
    return {"step": step, "epoch": 0.1, "loss": 10.0 + step, "learning_rate": 1e-3, **stage, **terms, **others}


def evaluation_line(step, layers=(), value=1.0, **others):
    terms = {f"eval_layer_{layer}/{term}": layer + value for layer in layers for term in TERMS}
    return {"step": step, "eval_loss": 4.0, "eval_masked_lm_loss": 3.0, **terms, **others}


def write_state(folder, lines, total, step=None):
    """A `trainer_state.json`, and the folder for it; by default at the last line's step."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"global_step": lines[-1]["step"] if step is None else step, "max_steps": total, "log_history": lines}
    (folder / "trainer_state.json").write_text(json.dumps(state))


def write_stages(folder, steps, layers, weights=None):
    """The stages of a progressive distillation: as many `steps` for each of the layers, and for all together."""
    stages = [
        RunStage(f"layer {layer}", layer * steps, (layer + 1) * steps, (layer,), False, layer + 1)
        for layer in range(layers)
    ]
    stages.append(RunStage("distillation", layers * steps, (layers + 1) * steps, (), True, layers))
    RunStages("progressive", tuple(stages), weights or dict.fromkeys(TERMS, 1.0)).write(folder)


def write_recipe(folder, **values):
    """The recipe of a progressive distillation."""
    recipe = {**PAPER, "teacher": "runs/teacher", "corpus": ["corpus.txt"], "output_dir": str(folder), **values}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
