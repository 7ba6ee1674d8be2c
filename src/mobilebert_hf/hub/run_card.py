"""Model cards of run folders."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import atomic_write_text
from ..reporting.page import draw_report
from ..reporting.run_log import STATE
from ..runs.facts import ModelFacts, ModelRecord
from ..runs.run_folder import RECIPE
from ..tasks.heads import find_task
from .card import CARD, MARKER, CardData, render_card
from .remote_code import MODULES
from .uses import MASK, uses_of


def write_run_card(record: ModelRecord, **fields: Any) -> None:
    """Writes the card of a model and plots its losses. A card edited by the user is not overwritten.

    Args:
        record: Facts of the model.
        fields: Fields of `CardData`, such as `license`; see `build_card`.
    """
    folder = record.folder
    if is_own_card(folder):
        return
    if record.facts.picture is not None and (folder / STATE).is_file():
        with suppress(ValueError):  # the run was too short to log anything
            draw_report(folder, record.facts.picture)
    atomic_write_text(folder / CARD, render_card(build_card(record, **fields)) + "\n")


def is_own_card(folder: Path) -> bool:
    """Returns whether the folder has a card that was edited by the user (without `MARKER`)."""
    card = folder / CARD
    return card.is_file() and MARKER not in card.read_text(encoding="utf-8")


def build_card(
    record: ModelRecord, repo: str | None = None, files: Collection[str] | None = None, **fields: Any
) -> CardData:
    """Builds the card data of a model.

    Args:
        record: Facts of the model.
        repo: Hub id for the code examples. The name of the folder by default.
        files: Paths in the repository. Those in the folder by default.
        fields: Fields of `CardData` that override the facts, unless they are None.
    """
    facts, config = record.facts, record.config
    task = find_task((config.get("architectures") or ["Model"])[0])
    if files is None:
        files = {path.relative_to(record.folder).as_posix() for path in record.folder.rglob("*")}
    sentences = "modules.json" in files
    name = repo or record.folder.resolve().name
    source = facts.source.markdown if facts.source else "another model"
    summary = facts.summary.replace("{source}", source) or f"{_family(config)}."
    values = {
        "name": name.split("/")[-1],
        "summary": f"{summary}\n\n{describe_shape(config)}",
        "training": _training(record.arguments, facts),
        "pipeline_tag": "sentence-similarity" if sentences else task.name,
        "library_name": "sentence-transformers" if sentences else "transformers",
        "base_model": facts.source.hub_id if facts.source else None,
        "datasets": facts.datasets,
        "tags": [config["model_type"]],
        "scores": facts.scores,
        "rows": facts.results,
        "rows_note": facts.results_note,
        "uses": uses_of(
            name,
            task,
            files,
            sentences=sentences,
            remote_code=config["model_type"] in MODULES,
            mask=_mask_token(record.folder),
        ),
        "picture": facts.picture if facts.picture in files else None,
        "command": facts.command if RECIPE in files else None,
        "version": facts.version,
    }
    return CardData(**(values | {name: value for name, value in fields.items() if value is not None}))


def _mask_token(folder: Path) -> str:
    """The mask token of the model's tokenizer; BERT's if the folder has none."""
    path = folder / "tokenizer_config.json"
    token = json.loads(path.read_text(encoding="utf-8")).get("mask_token") if path.is_file() else None
    return token["content"] if isinstance(token, dict) else token or MASK


def _family(config: Mapping[str, Any]) -> str:
    return "An IB-BERT teacher" if config["model_type"] == "ib_bert" else "A MobileBERT"


def describe_shape(config: Mapping[str, Any]) -> str:
    """Describes the sizes of a model, from its configuration."""
    if "intra_bottleneck_size" not in config:
        return f"A {config['model_type']}."
    norm = "LayerNorm" if config["normalization_type"] == "layer_norm" else "NoNorm (folded for inference)"
    networks = config["num_feedforward_networks"]
    return (
        f"{config['num_hidden_layers']} layers, hidden size {config['hidden_size']}, bottleneck size "
        f"{config['intra_bottleneck_size']}, {config['num_attention_heads']} attention heads, "
        f"{networks} feed-forward network{'s' if networks > 1 else ''} of size {config['intermediate_size']} per "
        f"layer, {config['hidden_act']}, {norm}; vocabulary of {config['vocab_size']:,} tokens, at most "
        f"{config['max_position_embeddings']} tokens per input."
    )


def _training(arguments: Mapping[str, Any], facts: ModelFacts) -> str:
    if not arguments:
        return "The run left no recipe."
    lines = "\n".join(f"| {name} | {value} |" for name, value in remove_local_paths(arguments, facts).items())
    return f"Arguments that differ from their defaults:\n\n| | |\n| --- | --- |\n{lines}"


def remove_local_paths(value: Any, facts: ModelFacts) -> Any:
    """Replaces local paths in recipe values by their last part, and removes `output_dir`.

    The teacher or base model is a path if the run's facts say so, wherever it is now: `runs/teacher` looks like the id
    of a model.
    """
    if isinstance(value, Mapping):
        return {name: remove_local_paths(part, facts) for name, part in value.items() if name != "output_dir"}
    if isinstance(value, list):
        return [remove_local_paths(part, facts) for part in value]
    if not isinstance(value, str):
        return value
    source = facts.source
    was_path = source is not None and source.hub_id is None and Path(value).name == source.name
    return Path(value).name if was_path or Path(value).is_absolute() or Path(value).exists() else value
