"""The card of a model's folder, from what the run that made it wrote there."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import atomic_write_text
from ..reporting.page import draw_report
from ..reporting.run_log import STATE
from ..runs.facts import ModelRecord
from ..runs.run_folder import RECIPE
from ..tasks.heads import find_task
from .card import CARD, MARKER, CardData, render_card
from .remote_code import MODULES
from .uses import uses_of


def write_run_card(record: ModelRecord, **fields: Any) -> None:
    """Writes a model's card into its folder, and draws its losses; a card that somebody has edited stays.

    Args:
        record: What is known of the model.
        fields: Of `CardData`, such as `license`; see `describe`.
    """
    folder = record.folder
    if is_own_card(folder):
        return
    if record.facts.picture is not None and (folder / STATE).is_file():
        with suppress(ValueError):  # of a run too short to have logged anything
            draw_report(folder, record.facts.picture)
    atomic_write_text(folder / CARD, render_card(describe(record, **fields)) + "\n")


def is_own_card(folder: Path) -> bool:
    """Whether the folder's card is somebody's own."""
    card = folder / CARD
    return card.is_file() and MARKER not in card.read_text(encoding="utf-8")


def describe(
    record: ModelRecord, repo: str | None = None, files: Collection[str] | None = None, **fields: Any
) -> CardData:
    """What there is to say of a model.

    Args:
        record: What is known of it.
        repo: The Hub id that the card's examples name; by default the folder's name.
        files: Paths within the repository; by default what is in the folder.
        fields: Of `CardData`, that win over what the run says, unless they are None.
    """
    facts, config = record.facts, record.config
    task = find_task((config.get("architectures") or ["Model"])[0])
    if files is None:
        files = {path.relative_to(record.folder).as_posix() for path in record.folder.rglob("*")}
    sentences = "modules.json" in files
    name = repo or record.folder.resolve().name
    source = facts.source.markdown if facts.source else "another network"
    summary = facts.summary.replace("{source}", source) or f"{_family(config)}."
    values = {
        "name": name.split("/")[-1],
        "summary": f"{summary}\n\n{describe_shape(config)}",
        "training": _training(record.arguments),
        "pipeline_tag": "sentence-similarity" if sentences else task.name,
        "library_name": "sentence-transformers" if sentences else "transformers",
        "base_model": facts.source.hub_id if facts.source else None,
        "datasets": facts.datasets,
        "tags": [config["model_type"]],
        "scores": facts.scores,
        "rows": facts.results,
        "rows_note": facts.results_note,
        "uses": uses_of(name, task, files, sentences=sentences, remote_code=config["model_type"] in MODULES),
        "picture": facts.picture if facts.picture in files else None,
        "command": facts.command if RECIPE in files else None,
        "version": facts.version,
    }
    return CardData(**(values | {name: value for name, value in fields.items() if value is not None}))


def _family(config: Mapping[str, Any]) -> str:
    return "A teacher, IB-BERT" if config["model_type"] == "ib_bert" else "A MobileBERT"


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


def _training(arguments: Mapping[str, Any]) -> str:
    if not arguments:
        return "The run left no recipe."
    lines = "\n".join(f"| {name} | {value} |" for name, value in without_places(arguments).items())
    return f"With these arguments, all others at their defaults:\n\n| | |\n| --- | --- |\n{lines}"


def without_places(value: Any) -> Any:
    """Values of a recipe, its local paths cut down to their last names: the others are nobody else's business."""
    if isinstance(value, Mapping):
        return {name: without_places(part) for name, part in value.items() if name != "output_dir"}
    if isinstance(value, list):
        return [without_places(part) for part in value]
    is_place = isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists())
    return Path(value).name if is_place else value
