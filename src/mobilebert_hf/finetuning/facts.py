"""What fine-tuning says of its models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runs.facts import ModelFacts, Score, Source, hub_ids, recipe_command
from ..tables import percent
from ..tasks.glue_data import HUB_DATASET
from ..tasks.glue_tasks import GlueTask
from ..tasks.heads import CLASSIFICATION, QUESTION_ANSWERING

# SQuAD's official validation files, compressed or not, begin with these names.
OFFICIAL = ("dev-v1.1", "dev-v2.0")


def describe_glue_model(
    task: GlueTask, details: Mapping[str, Any], model: str, data: str, *, bi_encoder: bool, held_out: bool
) -> ModelFacts:
    """Of the model of one run of a task.

    Args:
        task: The task.
        details: Of the run, see `Finished`.
        model: Hub id or folder of what was fine-tuned.
        data: Hub data set or folder of GLUE.
        bi_encoder: Whether it reads the texts of a pair one by one.
        held_out: Whether it was validated on training examples: these are nobody else's validation split.
    """
    rows = [("", "this model", "the commonest class")]
    scores = []
    for split, values in details["scores"].items():
        for metric in task.metrics:
            value, chance = values[metric], details["majority"][split][metric]
            if value is None:
                continue
            rows.append((f"{task.name} {split}, {metric}", percent(value), percent(chance)))
            scores.append(Score(CLASSIFICATION.name, task.name, HUB_DATASET, task.key, split, metric, 100 * value))
    summary = f"{{source}}, fine-tuned on {task.name} of GLUE."
    if bi_encoder:
        summary += " It reads every text by itself; how much two are alike is the cosine of their embeddings"
        threshold = details["decision"].get("threshold")
        alike = next((label for label in task.labels if not label.startswith("not_")), "")
        summary += f", {alike} where the cosine is above {threshold:.3f}." if threshold is not None else "."
    return ModelFacts(
        summary=summary,
        source=Source.of("base", model),
        datasets=hub_ids([data]),
        scores=() if held_out else tuple(scores),
        results=tuple(rows) if len(rows) > 1 else (),
        results_note="The best of the runs of this task by its score on the development set, which is therefore "
        "optimistic; in percent.",
        command=recipe_command("glue"),
    )


def describe_squad_model(model: str, train: str, validation: str, measured: Mapping[str, float]) -> ModelFacts:
    """Of a model that answers questions.

    Args:
        model: Hub id or folder of what was fine-tuned.
        train: Hub data set or file of the training questions.
        validation: Likewise, of the validation questions.
        measured: The scores in percent, by the names that the trainer logs; empty before there are any.
    """
    version_2 = "eval_exact" in measured
    dataset = "rajpurkar/squad_v2" if version_2 else "rajpurkar/squad"
    title = "SQuAD v2.0" if version_2 else "SQuAD v1.1"
    found = {
        "exact_match": measured.get("eval_exact" if version_2 else "eval_exact_match"),
        "f1": measured.get("eval_f1"),
    }
    known = {metric: value for metric, value in found.items() if value is not None}
    # A part of the official file, or other questions, have scores of their own.
    is_official = validation == dataset or Path(validation).name.split(".json")[0] in OFFICIAL
    scores = (
        Score(QUESTION_ANSWERING.name, title, dataset, None, "validation", metric, value)
        for metric, value in known.items()
    )
    rows = (("", "percent"), *((f"{title} dev, {metric}", f"{value:.2f}") for metric, value in known.items()))
    return ModelFacts(
        summary="{source}, fine-tuned to answer questions.",
        source=Source.of("base", model),
        datasets=hub_ids([train]),
        scores=tuple(scores) if is_official else (),
        results=rows if known else (),
        results_note=f"Of {Path(validation).name}, by the official definitions.",
        command=recipe_command("squad"),
    )
