"""The comparison of teacher and student at the end of a run, as data and as a table."""

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.trimmed_model import Trimming
from ..files import atomic_write_text
from ..machine import describe_device, time_interleaved
from ..models import fold
from ..tasks.glue_data import load_glue
from ..tasks.glue_tasks import TASKS
from .arguments import DistillationArguments
from .sentence_encoder import SentenceModules, mean_modules, score_similarity
from .shapes import count_parameters
from .trainer import DistillationTrainer

RESULTS, EVALUATION = "results.json", "eval_results.json"
TIMED_SECONDS = 3.0


class ScoredTask(NamedTuple):
    """A task that both models are scored on, without training.

    Args:
        name: Its key among the tasks of GLUE.
        split: The name of the split.
        pairs: The examples of the split.
    """

    name: str
    split: str
    pairs: Dataset

    @classmethod
    def load(cls, name: str, data: str) -> "ScoredTask":
        """The validation split or, where there is none, the training split.

        Raises:
            ValueError: There is neither.
        """
        splits = load_glue(TASKS[name], data)
        found = [split for split in ("validation", "train") if split in splits]
        if not found:
            raise ValueError(f"task_data={data!r} has no labelled split of {TASKS[name].name}, only {list(splits)}.")
        return cls(name, found[0], splits[found[0]])

    def count_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The number of tokens of all texts."""
        texts = [*self.pairs["sentence1"], *self.pairs["sentence2"]]
        return sum(len(ids) for ids in tokenizer(texts).input_ids)


class RunSummary(NamedTuple):
    """What `results.json` says of a run besides what its trainer knows.

    Args:
        teacher_name: Hub id or folder.
        minutes: The duration of the run so far.
        initialization: The report of the initialization.
        sentence: What surrounds the networks of sentence encoders.
        trimming: How the vocabulary of the teacher was trimmed, if it was.
    """

    teacher_name: str
    minutes: float
    initialization: dict[str, Any]
    sentence: SentenceModules | None = None
    trimming: Trimming | None = None


def write_results(
    folder: Path, trainer: DistillationTrainer, summary: RunSummary, task: ScoredTask | None
) -> dict[str, Any]:
    """Compares teacher and student and writes `results.json`.

    Args:
        folder: The folder of the saved student, with the evaluation.
        trainer: After training and evaluation.
        summary: What else is known of the run.
        task: The task that both are scored on, if any.

    Returns:
        The content of `results.json`.
    """
    student = trainer.accelerator.unwrap_model(trainer.model).eval()
    assert trainer.teacher is not None
    assert trainer.strategy is not None
    teacher = trainer.teacher.model
    length = min(128, student.config.max_position_embeddings)
    networks: dict[str, Any] = {"teacher": teacher.base_model, "student": student.base_model}
    scores = {name: _score(network, trainer, summary.sentence, task, length) for name, network in networks.items()}
    # On the CPU, whatever the training device: students are deployed on small machines.
    latency = _latency({"teacher": teacher.base_model.cpu(), "student": _deployed(student.cpu())}, length)
    # Local paths are not published.
    local = Path(summary.teacher_name).exists()
    results: dict[str, Any] = {
        "teacher_name": Path(summary.teacher_name).name if local else summary.teacher_name,
        "minutes": summary.minutes,
        "steps": trainer.strategy.steps,
        "processes": trainer.args.world_size,
        "device": describe_device(trainer.args.device),
        "initialization": summary.initialization,
        "length": length,
        **{
            name: {"parameters": count_parameters(network), "milliseconds": latency[name], **scores[name]}
            for name, network in networks.items()
        },
        "evaluation": json.loads((folder / EVALUATION).read_text(encoding="utf-8")),
    }
    if summary.trimming is not None:
        results["vocabulary"] = {"pieces": summary.trimming.pieces, "parameters": summary.trimming.parameters}
    if task is not None:
        results["task"] = {"name": task.name, "split": task.split}
    atomic_write_text(folder / RESULTS, json.dumps(results, indent=2))
    return results


def _score(
    network: Any, trainer: DistillationTrainer, sentence: SentenceModules | None, task: ScoredTask | None, length: int
) -> dict[str, Any]:
    """The score on the task, and that of each Matryoshka dimension."""
    if task is None:
        return {}
    assert isinstance(trainer.args, DistillationArguments)
    assert isinstance(trainer.processing_class, PreTrainedTokenizerBase)
    modules = sentence or mean_modules(trainer.processing_class, network.config.hidden_size, length)
    dimensions = trainer.args.dimensions
    score, *by_dimension = score_similarity(network, modules, task.pairs, (None, *dimensions))
    if not dimensions:
        return {"task": score}
    return {"task": score, "task_by_dimension": dict(zip(map(str, dimensions), by_dimension, strict=True))}


def result_rows(results: dict[str, Any]) -> list[list[str]]:
    """The table of `results.json`: a row for each quantity, with columns for teacher and student."""
    teacher, student, measured = results["teacher"], results["student"], results["evaluation"]
    rows = [
        ["", "teacher", "student"],
        ["parameters of the encoder", f"{teacher['parameters'] / 1e6:.1f}M", f"{student['parameters'] / 1e6:.1f}M"],
        *_vocabulary_rows(results),
        ["size in float32", *(f"{part['parameters'] * 4 / 1e6:.1f} MB" for part in (teacher, student))],
        [
            f"latency of {results['length']} tokens",
            f"{teacher['milliseconds']:.1f} ms",
            f"{student['milliseconds']:.1f} ms",
        ],
    ]
    for name, value in measured.items():
        metric = name.removeprefix("eval_")
        if metric.endswith("similarity"):
            what = metric.removesuffix("similarity").rstrip("/_").replace("_", " ")
            rows.append([f"cosine, {what}", "1", f"{value:.3f}"])
        elif metric == "masked_lm_accuracy":
            of_both = measured["eval_teacher_masked_lm_accuracy"], value
            rows.append(["masked-LM accuracy", *(f"{100 * share:.1f} %" for share in of_both)])
        elif metric.startswith("first_"):
            what = f"error of similarities, first {metric.removeprefix('first_')} dimensions"
            rows.append([what, "0", f"{value**0.5:.3f}"])
    if "task" in results:
        name, split = TASKS[results["task"]["name"]].name, results["task"]["split"]
        rows.append([f"{name} {split}, Spearman", *(f"{100 * part['task']:.2f}" for part in (teacher, student))])
        for count in teacher.get("task_by_dimension", ()):
            found = (f"{100 * part['task_by_dimension'][count]:.2f}" for part in (teacher, student))
            rows.append([f"{name} {split}, Spearman, first {count} dimensions", *found])
    return rows


def _vocabulary_rows(results: dict[str, Any]) -> list[list[str]]:
    """What the teacher was before its vocabulary was trimmed."""
    if "vocabulary" not in results:
        return []
    (whole, kept), (before, _) = results["vocabulary"]["pieces"], results["vocabulary"]["parameters"]
    return [
        ["vocabulary", f"{kept:,} of {whole:,}", f"{kept:,}"],
        ["parameters with the whole vocabulary", f"{before / 1e6:.1f}M", ""],
    ]


@torch.inference_mode()
def _latency(networks: dict[str, Any], length: int) -> dict[str, float]:
    """Median milliseconds of a forward pass on one text of `length` tokens."""
    ids = torch.full((1, length), 5)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    calls = {name: partial(network, **text) for name, network in networks.items()}
    times = time_interleaved(calls, TIMED_SECONDS)
    return {name: statistics.median(values) for name, values in times.items()}


def _deployed(student: PreTrainedModel) -> Any:
    """The encoder as it is deployed: folded."""
    foldable = student.config.normalization_type == "no_norm"
    deployed: Any = (fold(student).eval() if foldable else student).base_model
    deployed.set_attn_implementation("sdpa")  # whatever training used
    return deployed
