"""The facts of fine-tuned models, for model cards and reports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runs.facts import ModelFacts, Score, Source, hub_ids, recipe_command
from ..tables import percent
from ..tasks.glue_data import HUB_DATASET
from ..tasks.glue_tasks import GlueTask
from ..tasks.heads import CLASSIFICATION, QUESTION_ANSWERING

# The names of the official validation files of SQuAD, without extensions.
OFFICIAL = ("dev-v1.1", "dev-v2.0")


def describe_glue_model(
    task: GlueTask, details: Mapping[str, Any], model: str, data: str, *, bi_encoder: bool, held_out: bool
) -> ModelFacts:
    """The facts of a model fine-tuned on a task of GLUE.

    Args:
        task: The task.
        details: The details of the run; see `Finished`.
        model: Hub id or folder of the model before fine-tuning.
        data: Hub dataset or folder of GLUE.
        bi_encoder: Whether the model is a bi-encoder.
        held_out: Whether a part of the training split was held out for validation. The scores are then not those of
            the validation split, and are no evaluation results for the Hub.
    """
    rows = [("", "this model", "majority class")]
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
        summary += " It encodes each sentence separately and compares two by the cosine similarity of their embeddings"
        threshold = details["decision"].get("threshold")
        positive = next((label for label in task.labels if not label.startswith("not_")), "")
        summary += f"; the label is {positive} above {threshold:.3f}." if threshold is not None else "."
    return ModelFacts(
        summary=summary,
        source=Source.of("base", model),
        datasets=hub_ids([data]),
        scores=() if held_out else tuple(scores),
        results=tuple(rows) if len(rows) > 1 else (),
        results_note="In percent. The best of the runs of this task by its score on the validation split, which is "
        "therefore optimistic.",
        command=recipe_command("finetune"),
    )


def describe_squad_model(model: str, train: str, validation: str, measured: Mapping[str, float]) -> ModelFacts:
    """The facts of a model fine-tuned on SQuAD.

    Args:
        model: Hub id or folder of the model before fine-tuning.
        train: Hub dataset or file of the training questions.
        validation: Hub dataset or file of the validation questions.
        measured: The scores in percent by the names that the trainer logs; empty before evaluation.
    """
    version_2 = "eval_exact" in measured
    dataset = "rajpurkar/squad_v2" if version_2 else "rajpurkar/squad"
    title = "SQuAD v2.0" if version_2 else "SQuAD v1.1"
    found = {
        "exact_match": measured.get("eval_exact" if version_2 else "eval_exact_match"),
        "f1": measured.get("eval_f1"),
    }
    known = {metric: value for metric, value in found.items() if value is not None}
    # Scores on other questions than the official ones are no evaluation results for the Hub.
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
        results_note=f"Measured on {Path(validation).name} with the official metrics.",
        command=recipe_command("finetune"),
    )
