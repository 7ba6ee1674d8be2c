"""What distillation says of its students, and of the stages of its runs."""

from dataclasses import asdict
from typing import Any

from ..runs.facts import PICTURE, ModelFacts, Score, Source, recipe_command
from ..runs.stages import RunStage, RunStages
from ..tables import Rows
from .objectives import TransferWeights
from .stages import Strategy

STSB = {"task": "sentence-similarity", "name": "STS-B", "dataset": "nyu-mll/glue", "config": "stsb"}


def describe_stages(strategy: Strategy, weights: TransferWeights) -> RunStages:
    """The stages of a strategy with the steps at which they begin and end."""
    ends = (*strategy.boundaries[1:], strategy.steps)
    stages = tuple(
        RunStage(stage.name, start, end, stage.transfer_layers, stage.pretraining, stage.depth)
        for stage, start, end in zip(strategy.stages, strategy.boundaries, ends, strict=True)
    )
    return RunStages(strategy.name, stages, asdict(weights))


def describe_distilled(teacher: Any, strategy: str) -> ModelFacts:
    """Of a student of an IB-BERT, whose configuration says where it was loaded from."""
    return ModelFacts(
        summary=f"A MobileBERT distilled from its teacher {{source}} by {strategy} knowledge transfer.",
        source=Source.of("teacher", teacher.config.name_or_path),
        picture=PICTURE,
        command=recipe_command("distil_student"),
    )


def describe_student_in_training(teacher: Any) -> ModelFacts:
    """Of a student of any other encoder, known by its configuration, until it is compared with its teacher."""
    return ModelFacts(
        summary="A MobileBERT student of {source}, in training.",
        source=Source.of("teacher", teacher.config.name_or_path),
        picture=PICTURE,
        command=recipe_command("distil_any"),
    )


def describe_student(teacher: str, results: dict[str, Any], rows: Rows) -> ModelFacts:
    """Of a student of any other encoder, with what `write_results` measured.

    Args:
        teacher: Hub id or folder.
        results: The content of `results.json`.
        rows: The table of it.
    """
    scores: tuple[Score, ...] = ()
    if "task" in results:
        value = 100 * results["student"]["task"]
        scores = (Score(**STSB, split=results["task"]["split"], metric="spearman_cosine", value=value),)
    return ModelFacts(
        summary="A MobileBERT student of {source}, made by layer-wise knowledge transfer in "
        f"{results['minutes']:.0f} minutes on {results['device']}.",
        source=Source.of("teacher", teacher),
        scores=scores,
        results=tuple(tuple(row) for row in rows),
        results_note="Features, pooled outputs and masked-LM scores are those of held-out text of the corpus; latency "
        f"is that of one text of {results['length']} tokens in PyTorch on the processor of the machine that made the "
        "student, both networks in turns, the student folded.",
        picture=PICTURE,
        command=recipe_command("distil_any"),
    )
