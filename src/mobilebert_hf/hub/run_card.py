"""The card of a model folder, from the files that its run left there."""

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..data.glue_tasks import TASKS
from ..deployment.tasks import find_task
from ..distillation.report import result_rows
from ..files import write_aside
from ..finetuning.glue_report import percent
from ..machine import describe_version
from ..reporting.page import HELD_OUT, PICTURE, draw_report
from ..reporting.run_log import STATE
from ..tables import Rows
from ..training.run_folder import RECIPE, Recipe
from .card import CARD, MARKER, Facts, Score, render_card
from .remote_code import MODULES
from .uses import uses_of

# The kinds of runs that are drawn.
DRAWN = ("PreTrainingArguments", "DistillationArguments")


@dataclass(frozen=True)
class Run:
    """What is known of the run that made a model.

    Args:
        folder: The model's.
        config: The model's configuration, as its `config.json` says.
        kind: Which recipe made it: the name of its last class of arguments but `TrainingArguments`.
        values: Its arguments, as far as they are not at their defaults.
        version: Of this package, that made it.
        measured: The last evaluation, by the names that the trainer logs.
        training: Of a run that has just ended: its losses are drawn by them.
    """

    folder: Path
    config: Mapping[str, Any]
    kind: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    version: str = field(default_factory=describe_version)
    measured: Mapping[str, float] = field(default_factory=dict)
    training: TrainingArguments | None = None

    def results(self) -> dict[str, Any]:
        """The recipe's own file of results; empty where it has none, or none yet."""
        return _read_json(self.folder / "results.json")

    def source(self, argument: str) -> tuple[str, str | None]:
        """The model that an argument names: for people, and its Hub id if it has one."""
        name = str(self.values.get(argument, ""))
        if not name:
            return "another network", None
        local = Path(name).exists() or name.count("/") != 1
        return (f"`{Path(name).name}`", None) if local else (f"[{name}](https://huggingface.co/{name})", name)


@dataclass(frozen=True)
class Made:
    """What a kind of run says of its model."""

    summary: str
    rows: Rows = ()
    rows_note: str = ""
    base_model: str | None = None
    scores: tuple[Score, ...] = ()
    recipe: str | None = None


def write_run_card(run: Run, **fields: Any) -> None:
    """Writes a model's card into its folder, and draws its losses; a card that somebody has edited stays.

    Args:
        run: What is known.
        fields: Of `Facts`, such as `license`; see `describe`.
    """
    if is_own_card(run.folder):
        return
    if run.training is not None and run.kind in DRAWN and (run.folder / STATE).is_file():
        with suppress(ValueError):  # of a run too short to have logged anything
            draw_report(run.folder, run.training)
    write_aside(run.folder / CARD, render_card(describe(run, **fields)) + "\n")


def is_own_card(folder: Path) -> bool:
    """Whether the folder's card is somebody's own."""
    card = folder / CARD
    return card.is_file() and MARKER not in card.read_text(encoding="utf-8")


def describe(run: Run, repo: str | None = None, files: Collection[str] | None = None, **fields: Any) -> Facts:
    """What there is to say of a model.

    Args:
        run: What is known.
        repo: The Hub id that the card's examples name; by default the folder's name.
        files: Paths within the repository; by default what is in the folder.
        fields: Of `Facts`, that win over what the run says, unless they are None.
    """
    made = KINDS.get(run.kind, _unknown)(run)
    task = find_task((run.config.get("architectures") or ["Model"])[0]).name
    if files is None:
        files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")}
    sentences = "modules.json" in files
    name = repo or run.folder.resolve().name
    values = {
        "name": name.split("/")[-1],
        "summary": f"{made.summary}\n\n{describe_shape(run.config)}",
        "training": _training(run),
        "pipeline_tag": "sentence-similarity" if sentences else task,
        "library_name": "sentence-transformers" if sentences else "transformers",
        "base_model": made.base_model,
        "tags": [run.config["model_type"]],
        "scores": made.scores,
        "rows": made.rows,
        "rows_note": made.rows_note,
        "uses": uses_of(name, task, files, sentences=sentences, remote_code=run.config["model_type"] in MODULES),
        "picture": PICTURE if PICTURE in files else None,
        "command": f"accelerate launch recipes/{made.recipe}.py --config {RECIPE}" if made.recipe else None,
        "version": run.version,
    }
    return Facts(**(values | {name: value for name, value in fields.items() if value is not None}))


def read_run(folder: Path) -> Run:
    """What a folder knows of its model.

    Raises:
        FileNotFoundError: There is no `config.json`.
    """
    config = _read_json(folder / "config.json")
    if not config:
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json in it.")
    return with_recipe(Run(folder, config, measured=_read_json(folder / "eval_results.json")))


def with_recipe(run: Run) -> Run:
    """The same, with what its recipe says, if there is one."""
    path = find_recipe(run.folder)
    if path is None:
        return run
    recipe = Recipe.read(path)
    kind = next(name for name in reversed(recipe.classes) if name != "TrainingArguments")
    return replace(run, kind=kind, values=recipe.values, version=recipe.version)


def find_recipe(folder: Path) -> Path | None:
    """The recipe of a run: in its folder, or, of one of GLUE's, above that of its task."""
    places = [folder / RECIPE]
    if folder.parent.name in {task.name for task in TASKS.values()}:
        places.append(folder.parent.parent / RECIPE)
    return next((path for path in places if path.is_file()), None)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _held_out(run: Run) -> list[list[str]]:
    rows = [[name, form.format(run.measured[key])] for key, (name, form) in HELD_OUT.items() if key in run.measured]
    return [["on held-out text", ""], *rows] if rows else []


def _pretrained(run: Run) -> Made:
    summary = "A teacher, IB-BERT, pre-trained on masked words and next sentences, from scratch."
    if run.config["model_type"] == "mobilebert":
        summary = "A MobileBERT pre-trained from scratch, without a teacher."
    note = "The corpus' own held-out documents."
    return Made(summary, _held_out(run), note, recipe="pretrain")


def _distilled(run: Run) -> Made:
    if not any(name.endswith("ForPreTraining") for name in run.config.get("architectures") or []):
        return _compared_with_teacher(run)
    name, base_model = run.source("teacher")
    strategy = run.values.get("strategy", "auxiliary")
    summary = f"A MobileBERT distilled from its teacher {name} by {strategy} knowledge transfer."
    return Made(summary, _held_out(run), "The corpus' own held-out documents.", base_model, recipe="distill")


def _compared_with_teacher(run: Run) -> Made:
    name, base_model = run.source("teacher")
    results = run.results()
    if not results:
        return Made(f"A MobileBERT student of {name}, in training.", base_model=base_model, recipe="distill")
    device = f" on {results['device']}" if "device" in results else ""  # earlier runs did not say
    summary = (
        f"A MobileBERT student of {name}, made by layer-wise knowledge transfer in {results['minutes']:.0f} minutes"
        f"{device}."
    )
    note = (
        "Features, pooled outputs and masked-LM scores are those of held-out text of the corpus; latency is that of "
        f"one text of {results['length']} tokens in PyTorch on the processor of the machine that made the student, "
        "both networks in turns, the student folded."
    )
    scores: tuple[Score, ...] = ()
    if "task" in results:
        split = results["task"]["split"]
        value = 100 * results["student"]["task"]
        scores = (Score("sentence-similarity", "STS-B", "nyu-mll/glue", "stsb", split, "spearman_cosine", value),)
    return Made(summary, result_rows(results), note, base_model, scores, "distill")


def _glue(run: Run) -> Made:
    task = next(task for task in TASKS.values() if task.name == run.folder.parent.name)
    results = run.results()
    name, base_model = run.source("model")
    rows = [["", "this model", "the commonest class"]]
    scores = []
    for split, values in results.get("scores", {}).items():
        for metric in task.metrics:
            value, chance = values[metric], results["majority"][split][metric]
            if value is None:
                continue
            rows.append([f"{task.name} {split}, {metric}", percent(value), percent(chance)])
            scores.append(
                Score("text-classification", task.name, "nyu-mll/glue", task.key, split, metric, 100 * value)
            )
    summary = f"{name}, fine-tuned on {task.name} of GLUE."
    if run.values.get("bi_encoder"):
        summary += " It reads every text by itself; how much two are alike is the cosine of their embeddings"
        threshold = results.get("decision", {}).get("threshold")
        alike = next((label for label in task.labels if not label.startswith("not_")), "")
        summary += f", {alike} where the cosine is above {threshold:.3f}." if threshold is not None else "."
    return Made(
        summary,
        rows if len(rows) > 1 else [],
        "The best of the runs of this task by its score on the development set, which is therefore optimistic; in "
        "percent.",
        base_model,
        # What was held out of the training examples is nobody else's validation split.
        () if run.values.get("holdout") else tuple(scores),
        "glue",
    )


def _squad(run: Run) -> Made:
    measured = run.measured
    name, base_model = run.source("model")
    validation = str(run.values.get("validation", "rajpurkar/squad"))
    version_2 = "eval_exact" in measured
    exact = measured.get("eval_exact" if version_2 else "eval_exact_match")
    found = {"exact_match": exact, "f1": measured.get("eval_f1")}
    scores = {metric: value for metric, value in found.items() if value is not None}
    official = "rajpurkar/squad_v2" if version_2 else "rajpurkar/squad"
    # A part of the official file, or other questions, have scores of their own.
    is_official = validation == official or Path(validation).name.split(".json")[0] in ("dev-v1.1", "dev-v2.0")
    title = "SQuAD v2.0" if version_2 else "SQuAD v1.1"
    listed = tuple(
        Score("question-answering", title, official, None, "validation", metric, value)
        for metric, value in scores.items()
    )
    return Made(
        f"{name}, fine-tuned to answer questions.",
        [["", "percent"], *([f"{title} dev, {metric}", f"{value:.2f}"] for metric, value in scores.items())],
        f"Of {Path(validation).name}, by the official definitions.",
        base_model,
        listed if is_official else (),
        "squad",
    )


def _unknown(run: Run) -> Made:
    return Made("A teacher, IB-BERT." if run.config["model_type"] == "ib_bert" else "A MobileBERT.")


KINDS: dict[str, Callable[[Run], Made]] = {
    "PreTrainingArguments": _pretrained,
    "DistillationArguments": _distilled,
    "GridArguments": _glue,
    "SquadArguments": _squad,
}


def describe_shape(config: Mapping[str, Any]) -> str:
    """The network's sizes, from its configuration."""
    if "intra_bottleneck_size" not in config:
        return f"A {config['model_type']}."
    norm = "LayerNorm" if config["normalization_type"] == "layer_norm" else "NoNorm, which folds away for inference"
    networks = config["num_feedforward_networks"]
    return (
        f"{config['num_hidden_layers']} layers, {config['hidden_size']} wide between blocks and "
        f"{config['intra_bottleneck_size']} inside, {config['num_attention_heads']} heads, "
        f"{networks} feed-forward network{'s' if networks > 1 else ''} of {config['intermediate_size']} a layer, "
        f"{config['hidden_act']}, {norm}; {config['vocab_size']:,} words, texts of up to "
        f"{config['max_position_embeddings']} tokens."
    )


def _training(run: Run) -> str:
    if not run.values:
        return "The run left no recipe."
    lines = "\n".join(f"| {name} | {value} |" for name, value in without_places(run.values).items())
    return f"With these arguments, all others at their defaults:\n\n| | |\n| --- | --- |\n{lines}"


def without_places(value: Any) -> Any:
    """Values of a recipe, its local paths cut down to their last names: the others are nobody else's business."""
    if isinstance(value, Mapping):
        return {name: without_places(part) for name, part in value.items() if name != "output_dir"}
    if isinstance(value, list):
        return [without_places(part) for part in value]
    is_place = isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists())
    return Path(value).name if is_place else value
