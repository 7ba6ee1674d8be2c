"""What a run of pre-training or distillation says about its model and its stages."""

from collections.abc import Iterable
from typing import Any

from ..runs.facts import PICTURE, ModelFacts, Score, Source, recipe_command
from ..runs.stages import RunStage, RunStages
from ..tables import Rows
from .objectives import LayerObjective, Objective
from .stages import Strategy

STSB = {"task": "sentence-similarity", "name": "STS-B", "dataset": "nyu-mll/glue", "config": "stsb"}


def describe_stages(strategy: Strategy, objectives: Iterable[Objective]) -> RunStages:
    """The stages of a strategy, the steps at which they begin and end, and the weights of the transfer losses."""
    ends = (*strategy.boundaries[1:], strategy.steps)
    stages = tuple(
        RunStage(stage.name, start, end, stage.transfer_layers, stage.use_distillation_loss, stage.depth)
        for stage, start, end in zip(strategy.stages, strategy.boundaries, ends, strict=True)
    )
    weights: dict[str, float] = {}
    for objective in objectives:
        if isinstance(objective, LayerObjective):
            weights.update(objective.weights)
    return RunStages(strategy.name, stages, weights)


def describe_pretrained(model_type: str) -> ModelFacts:
    """A model that was pre-trained without a teacher; `model_type` as in its configuration."""
    summary = "A teacher, IB-BERT, pre-trained on masked words and next sentences, from scratch."
    if model_type == "mobilebert":
        summary = "A MobileBERT pre-trained from scratch, without a teacher."
    return ModelFacts(summary=summary, picture=PICTURE, command=recipe_command("pretrain"))


def describe_distilled(teacher: Any, strategy: str) -> ModelFacts:
    """A student of a teacher with this configuration, which says where it was loaded from."""
    return ModelFacts(
        summary=f"A MobileBERT distilled from its teacher {{source}} by {strategy} knowledge transfer.",
        source=Source.of("teacher", teacher.config.name_or_path),
        picture=PICTURE,
        command=recipe_command("distill"),
    )


def describe_student(teacher: str, results: dict[str, Any], rows: Rows) -> ModelFacts:
    """A student that was compared with its teacher.

    Args:
        teacher: Hub id or folder of the teacher.
        results: The content of `results.json`.
        rows: The table of it.
    """
    scores: tuple[Score, ...] = ()
    if "task" in results:
        value = 100 * results["student"]["task"]
        scores = (Score(**STSB, split=results["task"]["split"], metric="spearman_cosine", value=value),)
    return ModelFacts(
        summary="A MobileBERT student of {source}, distilled by layer-wise knowledge transfer in "
        f"{results['minutes']:.0f} minutes on {results['device']}.",
        source=Source.of("teacher", teacher),
        scores=scores,
        results=tuple(tuple(row) for row in rows),
        results_note="Features, pooled outputs and masked-LM scores were measured on held-out text of the corpus. "
        f"Latency is that of one text of {results['length']} tokens in PyTorch on the processor that trained the "
        "student, both networks in turns, the student folded.",
        picture=PICTURE,
        command=recipe_command("distill"),
    )
