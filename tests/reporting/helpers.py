"""Runs' folders, written by hand as the trainers write them."""

import json

import yaml

from mobilebert_hf.distillation import PAPER

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


def write_recipe(folder, **values):
    """The recipe of a progressive distillation."""
    recipe = {**PAPER, "teacher": "runs/teacher", "corpus": ["corpus.txt"], "output_dir": str(folder), **values}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
